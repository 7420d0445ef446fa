import type { RandomAccessSource } from "../../channels/index.js";
import { FormatError } from "../../errors/index.js";
import { PageBitmap } from "../../memory/index.js";
import { bitmapBytes, RAM_SECTION } from "../../wire/index.js";
import type { MappedRamBlock } from "./open.js";

/**
 * Reads a block's bitmap: which pages have content.
 *
 * @throws FormatError `truncated` when the file ends inside it.
 */
export function readPageBitmap(file: RandomAccessSource, block: MappedRamBlock): PageBitmap {
  if (block.mapped === undefined) return new PageBitmap(0);
  const pages = block.usedLength / block.mapped.pageSize;
  const bytes = new Uint8Array(bitmapBytes(pages));
  const count = file.readAt(bytes, block.mapped.bitmapOffset);
  if (count < bytes.length) {
    throw new FormatError("truncated", "The file ends inside a bitmap", {
      offset: block.mapped.bitmapOffset,
      section: RAM_SECTION.name,
      block: block.name,
      expected: `${bytes.length} bytes`,
      actual: `${count} bytes`,
    });
  }
  return PageBitmap.fromBytes(pages, bytes);
}

/**
 * Counts the pages of all blocks: those with content, and those that are zero.
 *
 * @throws FormatError `truncated` when the file ends inside a bitmap.
 */
export function countPages(
  file: RandomAccessSource,
  blocks: readonly MappedRamBlock[],
): { readonly normal: number; readonly zero: number } {
  let normal = 0;
  let zero = 0;
  for (const block of blocks) {
    const bitmap = readPageBitmap(file, block);
    const present = bitmap.count();
    normal += present;
    zero += bitmap.pageCount - present;
  }
  return { normal, zero };
}

/**
 * Checks the bitmaps: a loader would take pages from behind a block whose bitmap has more bits than the block pages.
 *
 * @throws FormatError `inconsistent`, or `truncated` when the file ends inside a bitmap.
 */
export function checkPageBitmaps(file: RandomAccessSource, blocks: readonly MappedRamBlock[]): void {
  for (const block of blocks) {
    const strayBits = readPageBitmap(file, block).tailBits();
    if (strayBits === 0) continue;
    throw new FormatError("inconsistent", "A bitmap has bits set behind its last page", {
      ...(block.mapped === undefined ? {} : { offset: block.mapped.bitmapOffset }),
      section: RAM_SECTION.name,
      block: block.name,
      actual: strayBits,
    });
  }
}
