import { Limits, MigrationCommand, SectionType } from "./constants.js";
import { SECTION_FOOTER_BYTES } from "./section.js";

/**
 * Where the first device section's end is when its length is not known: its footer, followed by the start of
 * something that may follow.
 *
 * @param start Index of the payload in `bytes`.
 * @returns Index of the footer, or -1 when `bytes` has none with enough behind it to be sure.
 */
export function searchSectionFooter(bytes: Uint8Array, start: number, sectionId: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const footerType = SectionType.FOOTER;
  const last = bytes.length - SECTION_FOOTER_BYTES;
  // Byte by byte: a search for each footer's byte takes long in a section that is full of them.
  for (let at = start; at <= last; at++) {
    if (bytes[at] !== footerType || view.getUint32(at + 1) !== sectionId) continue;
    if (mayStartNext(view, at + SECTION_FOOTER_BYTES)) return at;
  }
  return -1;
}

/**
 * Whether what stands at `at` looks like the next part of a stream: a section with a printable name, a later part, a
 * command, or the EOF. Nothing is thrown: a file full of footers asks this a million times.
 */
export function mayStartNext(view: DataView, at: number): boolean {
  const remaining = view.byteLength - at - 1;
  if (remaining < 0) return false;
  switch (view.getUint8(at)) {
    case SectionType.START:
    case SectionType.FULL:
      return hasPrintableName(view, at + 1 + 4);
    case SectionType.PART:
    case SectionType.END:
      return remaining >= 4 && view.getUint32(at + 1) < Limits.sections;
    case SectionType.COMMAND:
      return remaining >= 2 && view.getUint16(at + 1) <= MigrationCommand.SWITCHOVER_START;
    case SectionType.EOF:
      return remaining === 0 || view.getUint8(at + 1) === SectionType.VMDESCRIPTION;
    default:
      return false;
  }
}

/** A section's `idstr` at `at`, with its instance and version behind it. */
function hasPrintableName(view: DataView, at: number): boolean {
  if (at >= view.byteLength) return false;
  const end = at + 1 + view.getUint8(at);
  if (end === at + 1 || end + 8 > view.byteLength) return false;
  for (let index = at + 1; index < end; index++) {
    const character = view.getUint8(index);
    if (character < 0x20 || character > 0x7e) return false;
  }
  return true;
}
