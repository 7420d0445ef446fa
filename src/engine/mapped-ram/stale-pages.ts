import { isZero } from "../../memory/index.js";
import { readPageBitmap } from "./bitmaps.js";
import type { MappedRamFile } from "./open.js";
import type { PositionedFile } from "./positioned-file.js";

const READ_BYTES = 1 << 20;

/** A file that also says where it holds data, so that holes need not be read. */
export interface StalePageFile extends PositionedFile {
  /** The first range at or after `offset` that holds data, cut at `end`; undefined when only a hole is left. */
  nextDataRange(offset: number, end: number): { start: number; end: number } | undefined;
}

/**
 * Makes the places of zero pages read as zero. QEMU's own file of a running guest keeps the bytes of pages that were
 * written and became zero later; a loader ignores them, but whoever maps or copies the file would see them.
 *
 * @returns How many bytes were cleared.
 */
export function clearStalePages(file: StalePageFile, skeleton: MappedRamFile): number {
  const buffer = new Uint8Array(READ_BYTES);
  let clearedBytes = 0;
  for (const block of skeleton.blocks) {
    const { mapped } = block;
    if (mapped === undefined) continue;
    for (const run of readPageBitmap(file, block).clearRuns()) {
      const end = mapped.pagesOffset + run.end * mapped.pageSize;
      let at = mapped.pagesOffset + run.start * mapped.pageSize;
      for (let data = file.nextDataRange(at, end); data !== undefined; data = file.nextDataRange(at, end)) {
        clearedBytes += clearRange(file, data, buffer);
        at = data.end;
      }
    }
  }
  return clearedBytes;
}

function clearRange(file: StalePageFile, range: { start: number; end: number }, buffer: Uint8Array): number {
  let clearedBytes = 0;
  for (let at = range.start; at < range.end; at += buffer.length) {
    const length = Math.min(buffer.length, range.end - at);
    file.readAt(buffer.subarray(0, length), at);
    if (isZero(buffer, 0, length)) continue;
    file.zeroAt(at, length);
    clearedBytes += length;
  }
  return clearedBytes;
}
