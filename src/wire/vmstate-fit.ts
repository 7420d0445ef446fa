import type { FieldLayout, VmsdLayout } from "./vmstate-layout.js";
import type { UndecodedReason } from "./vmstate-events.js";
import { CAPABILITY, isBytes, isScalar, wordsOf } from "./vmstate-scalars.js";

/** The one field whose size a description has wrong, and its real size. */
export interface ElasticField {
  readonly field: FieldLayout;
  readonly bytes: number;
}

/** Whether a payload can be decoded by a description. */
export type LayoutFit =
  | { readonly reason: UndecodedReason }
  /** It can; where there is an elastic field, that one takes what the others leave. */
  | { readonly reason?: undefined; readonly elastic?: ElasticField };

/** Compares the size of a payload with what its description says. */
export function fitLayout(layout: VmsdLayout, payloadBytes: number): LayoutFit {
  const { fields, bytes } = layout;
  if (fields === undefined || bytes === undefined) return { reason: "no-description" };
  const slack = payloadBytes - bytes;
  if (slack === 0 || hasOwnLengths(layout)) return {};
  // An array has the size of its first element for all; QEMU 9 and older do that even for pointers of which some are
  // null. When a device has just one such array, the difference is in it.
  const field = fields.find(isElastic);
  const isAlone = fields.filter(({ name }) => name === field?.name).length === 1;
  if (field === undefined || !isAlone || countElastic(layout) !== 1) return { reason: "size-mismatch" };
  const real = field.bytes * field.count + slack;
  return real < 0 ? { reason: "size-mismatch" } : { elastic: { field, bytes: real } };
}

/** Whether the description can have the size of a field wrong: it has that of the first element for all. */
function isElastic(field: FieldLayout): boolean {
  return (
    field.count > 1 &&
    !isScalar(field.type) &&
    !isBytes(field.type) &&
    wordsOf(field.type, field.bytes) === undefined
  );
}

function countElastic(vmsd: VmsdLayout | undefined): number {
  const nested = (field: FieldLayout): number =>
    [field.struct, ...field.inline].reduce((sum, inner) => sum + countElastic(inner), 0);
  const own = (vmsd?.fields ?? []).reduce((sum, field) => sum + (isElastic(field) ? 1 : nested(field)), 0);
  return (vmsd?.subsections ?? []).reduce((sum, inner) => sum + countElastic(inner), own);
}

/** Whether values have lengths of their own, which the description cannot know. */
function hasOwnLengths(vmsd: VmsdLayout): boolean {
  return (
    (vmsd.fields ?? []).some(({ type }) => type === CAPABILITY) ||
    vmsd.subsections.some((inner) => hasOwnLengths(inner))
  );
}
