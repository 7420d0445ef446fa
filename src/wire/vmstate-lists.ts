import type { FieldLayout, VmsdLayout } from "./vmstate-layout.js";

/** A struct inside a list or tree, or a tree's key that is a plain number. */
export interface ListItem {
  readonly name: "element" | "key" | "value";
  /** Which element it is or belongs to, from 0. */
  readonly index: number;
  /** Index of its first byte in the payload. */
  readonly at: number;
  /** Undefined for a key that is a be64. */
  readonly vmsd: VmsdLayout | undefined;
}

const TREE = "gtree";
const LISTS: ReadonlySet<string> = new Set(["qtailq", "qlist", TREE]);
const KEY_BYTES = 8;
const COUNT_BYTES = 4;

/** Whether a field of the type is a queue, a list or a tree. */
export function isListType(type: string): boolean {
  return LISTS.has(type);
}

/**
 * Where the elements of a list or tree are. Each stands behind a byte that is not 0; a 0 ends it. A tree has their number
 * (be32) in front, and a key before each value.
 *
 * @param at Index of the field's first byte.
 * @returns Undefined when the bytes or sizes do not fit the elements that the description has.
 */
export function listItems(field: FieldLayout, view: DataView, at: number): ListItem[] | undefined {
  const end = at + field.bytes;
  if (end > view.byteLength) return undefined;
  const isTree = field.type === TREE;
  let next = isTree ? at + COUNT_BYTES : at;
  if (next >= end) return undefined;
  // Keys that are plain numbers are not described: then there is one vmsd for each element, otherwise two.
  const elements = isTree ? view.getUint32(at) : field.inline.length;
  const keysDescribed = isTree && field.inline.length === 2 * elements;
  if (!keysDescribed && field.inline.length !== elements) return undefined;
  const items: ListItem[] = [];
  for (let index = 0; index < elements; index++) {
    if (next >= end || view.getUint8(next) === 0) return undefined;
    next += 1;
    const key = keysDescribed ? field.inline[2 * index] : undefined;
    if (isTree) {
      items.push({ name: "key", index, at: next, vmsd: key });
      next += key === undefined ? KEY_BYTES : (key.bytes ?? NaN);
    }
    const vmsd = field.inline[keysDescribed ? 2 * index + 1 : index];
    items.push({ name: isTree ? "value" : "element", index, at: next, vmsd });
    next += vmsd?.bytes ?? NaN;
  }
  return next === end - 1 && view.getUint8(next) === 0 ? items : undefined;
}
