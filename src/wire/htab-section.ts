import type { ByteReader } from "./byte-reader.js";

/** The name of the section with the hash page table of a pseries guest: QEMU's `htab_load` reads it. */
export const HTAB_SECTION_NAME = "spapr/htab";

/** One entry of the table: `HASH_PTE_SIZE_64`. */
const ENTRY_BYTES = 16;

/**
 * Moves a reader behind one part of a pseries guest's hash page table. Its content says where it ends, so it can be passed
 * where sections have no footers, in streams of pseries-2.3 and older.
 *
 * A part is a be32 that is the table's size as a power of two, or -1 for none, and nothing more; or it is zero, and chunks
 * follow: be32 index, be16 valid entries, be16 invalid ones, and the valid ones' bytes. A chunk of zeros ends it.
 *
 * @param reached What earlier calls with fewer bytes found: nothing is looked at twice.
 * @throws FormatError `truncated` when the bytes end before.
 */
export function skipHtabPart(reader: ByteReader, reached: HtabReached): void {
  if (reached.chunksEnd === undefined) {
    if (reader.u32() !== 0) return;
    reached.chunksEnd = reader.position;
  }
  reader.position = reached.chunksEnd;
  while (true) {
    const index = reader.u32();
    const valid = reader.u16();
    const invalid = reader.u16();
    if (index === 0 && valid === 0 && invalid === 0) return;
    reader.view(valid * ENTRY_BYTES);
    reached.chunksEnd = reader.position;
  }
}

/** Where a reader got in a part that is not all there. */
export interface HtabReached {
  /** Behind the last whole chunk; undefined before the first one. */
  chunksEnd?: number;
}
