import { Buffer } from "node:buffer";

import { isZero, type PageRun } from "../memory/index.js";
import { type BlockPages, type PageWindow, pageWindows, type WalkPace } from "./page-windows.js";

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
 * @returns The runs in batches.
 * @throws What `Snapshot.readPages` does; CancelledError.
 */
export async function* comparePages(
  before: BlockPages,
  after: BlockPages,
  pageCount: number,
  pace: WalkPace,
): AsyncGenerator<readonly PageChangeRun[], void, undefined> {
  const { pageSize } = before.block;
  const joiner = new RunJoiner();
  for await (const window of pageWindows([before, after], pageCount, pace)) {
    joiner.extendTo(window.start, "zero");
    compareWindow(window, pageSize, joiner);
    const runs = joiner.take();
    if (runs.length > 0) yield runs;
  }
  joiner.extendTo(pageCount, "zero");
  const last = joiner.finish();
  if (last.length > 0) yield last;
}

function compareWindow({ start, end, contents }: PageWindow, pageSize: number, joiner: RunJoiner): void {
  const [before, after] = contents;
  const count = end - start;
  // One comparison in machine code for what is mostly the case.
  const allEqual = before !== undefined && after !== undefined && Buffer.compare(before, after) === 0;
  for (let page = 0; page < count; page++) {
    const at = page * pageSize;
    const wasZero = before === undefined || isZero(before, at, pageSize);
    const isNowZero = allEqual ? wasZero : after === undefined || isZero(after, at, pageSize);
    let change: PageChange;
    if (wasZero) change = isNowZero ? "zero" : "appeared";
    else if (isNowZero) change = "became-zero";
    else change = allEqual || isSame(before, after, at, pageSize) ? "equal" : "changed";
    joiner.extendTo(start + page + 1, change);
  }
}

function isSame(
  before: Uint8Array | undefined,
  after: Uint8Array | undefined,
  at: number,
  length: number,
): boolean {
  if (before === undefined || after === undefined) return false;
  return Buffer.compare(before.subarray(at, at + length), after.subarray(at, at + length)) === 0;
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
