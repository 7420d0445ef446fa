import { hasBit, type PageScanner } from "../kernels/index.js";
import type { PageRun } from "../memory/index.js";
import { type BlockPages, type PageWindow, pageWindows, type WalkPace } from "./page-windows.js";
import { WindowScanners } from "./window-scanners.js";

/** What became of a page between two snapshots. `zero` is zero in both, `appeared` was zero and has content now. */
export type PageChange = "zero" | "equal" | "changed" | "became-zero" | "appeared";

/** Neighbouring pages of which the same has become. */
export interface PageChangeRun extends PageRun {
  readonly change: PageChange;
}

/**
 * Compares the pages of two blocks by their content, whether the files have it or leave it out as zero. What both leave
 * out is not read.
 *
 * @param pageCount Pages that both have; the runs cover them, in order, neighbours joined.
 * @param scanners Of two areas; for all blocks the same ones.
 * @returns The runs in batches.
 * @throws What `Snapshot.readPages` does; CancelledError.
 */
export async function* comparePages(
  before: BlockPages,
  after: BlockPages,
  pageCount: number,
  pace: WalkPace,
  scanners = new WindowScanners(2),
): AsyncGenerator<readonly PageChangeRun[], void, undefined> {
  const scanner = scanners.for(before.block.pageSize);
  const joiner = new RunJoiner();
  for await (const window of pageWindows([before, after], pageCount, pace, scanner.areas)) {
    joiner.extendTo(window.start, "zero");
    compareWindow(window, scanner, joiner);
    const runs = joiner.take();
    if (runs.length > 0) yield runs;
  }
  joiner.extendTo(pageCount, "zero");
  const last = joiner.finish();
  if (last.length > 0) yield last;
}

/** Bits of pages that are all clear. */
const NO_PAGES = new Uint8Array();

/** @param scanner Its areas hold the window's contents. */
function compareWindow({ start, end, contents }: PageWindow, scanner: PageScanner, joiner: RunJoiner): void {
  const [before, after] = contents;
  const count = end - start;
  // Areas of what has no content hold what was there before.
  const contentBefore = before === undefined ? NO_PAGES : scanner.findContent(0, count);
  const contentAfter = after === undefined ? NO_PAGES : scanner.findContent(1, count);
  const changed = before === undefined || after === undefined ? NO_PAGES : scanner.findChanged(count);
  for (let page = 0; page < count; page++) {
    const isNowZero = !hasBit(contentAfter, page);
    let change: PageChange;
    if (!hasBit(contentBefore, page)) change = isNowZero ? "zero" : "appeared";
    else if (isNowZero) change = "became-zero";
    else change = hasBit(changed, page) ? "changed" : "equal";
    joiner.extendTo(start + page + 1, change);
  }
}

/** Joins neighbours into runs that follow each other without gaps. */
class RunJoiner {
  #done: PageChangeRun[] = [];
  #start = 0;
  #end = 0;
  #change: PageChange = "zero";

  /** Says that everything from the last `end` on up to this one has become so. */
  extendTo(end: number, change: PageChange): void {
    if (end === this.#end) return;
    if (change !== this.#change) {
      if (this.#end > this.#start)
        this.#done.push({ start: this.#start, end: this.#end, change: this.#change });
      this.#start = this.#end;
      this.#change = change;
    }
    this.#end = end;
  }

  /** The runs that can no longer grow. */
  take(): readonly PageChangeRun[] {
    const done = this.#done;
    this.#done = [];
    return done;
  }

  finish(): readonly PageChangeRun[] {
    if (this.#end > this.#start)
      this.#done.push({ start: this.#start, end: this.#end, change: this.#change });
    this.#start = this.#end;
    return this.take();
  }
}
