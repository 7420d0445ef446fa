import { assert } from "../../../errors/index.js";
import type { PageBitmap } from "../../../memory/index.js";
import {
  type ByteRange,
  type Command,
  MAX_DISCARDS_PER_COMMAND,
  ramDiscardCommand,
} from "../../../wire/index.js";

/** A block as its pages are discarded. */
export interface DiscardedBlock {
  readonly name: string;
  /** Target pages that the destination does not have, or not as they are now. */
  readonly missing: PageBitmap;
  /** Target pages in a host page: a power of two. */
  readonly hostPagePages: number;
}

/**
 * Makes whole host pages of what is missing: a destination installs a host page at once, so that one of which a part is
 * missing has to come whole (`postcopy_chunk_hostpages_pass`).
 *
 * There is always something missing afterwards. Without a single discard, a destination's memory is not made ready for
 * missing pages before it listens, and older QEMUs then wait for themselves.
 */
export function missByHostPages(blocks: readonly DiscardedBlock[]): void {
  for (const { missing, hostPagePages } of blocks) {
    if (hostPagePages === 1) continue;
    for (let page = missing.nextSet(0); page < missing.pageCount;) {
      const start = page - (page % hostPagePages);
      const end = Math.ceil(missing.nextClear(page) / hostPagePages) * hostPagePages;
      missing.setRange(start, end);
      page = missing.nextSet(end);
    }
  }
  if (blocks.some(({ missing }) => missing.nextSet(0) < missing.pageCount)) return;
  const first = blocks.find(({ missing }) => missing.pageCount > 0);
  assert(first !== undefined, "a block whose pages travel");
  first.missing.setRange(0, first.hostPagePages);
}

/** The commands that make the destination forget what is missing: QEMU's number of ranges in each. */
export function* discardCommands(
  blocks: readonly DiscardedBlock[],
  pageSize: number,
): Generator<Command, void, undefined> {
  for (const { name: block, missing } of blocks) {
    let ranges: ByteRange[] = [];
    for (const { start, end } of missing.runs()) {
      ranges.push({ start: start * pageSize, length: (end - start) * pageSize });
      if (ranges.length < MAX_DISCARDS_PER_COMMAND) continue;
      yield ramDiscardCommand({ block, ranges });
      ranges = [];
    }
    if (ranges.length > 0) yield ramDiscardCommand({ block, ranges });
  }
}
