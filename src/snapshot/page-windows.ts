import { Turns } from "../engine/breathe.js";
import { type ProgressListener, ProgressMeter } from "../engine/progress.js";
import { throwIfAborted } from "../errors/index.js";
import type { PageRun } from "../memory/index.js";
import type { Snapshot, SnapshotBlock } from "./snapshot.js";

/** Bytes of the largest {@link PageWindow}. */
export const WINDOW_BYTES = 1 << 20;

/** How a walk over memory is watched and ended. */
export interface WalkOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** A block of a snapshot, whose pages are to be read. */
export interface BlockPages {
  readonly snapshot: Snapshot;
  readonly block: SnapshotBlock;
}

/** Some pages of a block, or of several that are walked side by side. */
export interface PageWindow extends PageRun {
  /** The pages of each side; undefined where all of them are without content, and so zero. Valid until the next one. */
  readonly contents: readonly (Uint8Array | undefined)[];
}

/** Lets others run while memory is walked, says how far it has come, and ends it when asked to. */
export class WalkPace {
  readonly #phase: string;
  readonly #totalBytes: number;
  readonly #meter: ProgressMeter;
  readonly #turns: Turns;
  #blockStart = 0;

  /** @param totalBytes Of all blocks that will be walked. */
  constructor(phase: string, totalBytes: number, { signal, onProgress }: WalkOptions) {
    this.#phase = phase;
    this.#totalBytes = totalBytes;
    this.#turns = new Turns(signal);
    this.#meter = new ProgressMeter(onProgress);
    throwIfAborted(signal);
  }

  /** Call it often. @param coveredBytes Of the current block. */
  async rest(coveredBytes: number): Promise<void> {
    if (!this.#turns.isDue) return;
    const done = this.#blockStart + coveredBytes;
    this.#meter.update(done, () => ({
      phase: this.#phase,
      remainingBytes: this.#totalBytes - done,
      totalBytes: this.#totalBytes,
    }));
    await this.#turns.take();
  }

  /** A block of so many bytes is done. */
  endBlock(bytes: number): void {
    this.#blockStart += bytes;
  }
}

/**
 * Reads blocks side by side, in windows of 1 MiB. What none of them has content for is in no window, or in one as zeros: it
 * is not read.
 *
 * @param sides Blocks of one page size that have at least `pageCount` pages.
 * @param buffers Where the pages of each side are read to, {@link WINDOW_BYTES} each; own ones when not given.
 * @throws What `Snapshot.readPages` does; CancelledError.
 */
export async function* pageWindows(
  sides: readonly BlockPages[],
  pageCount: number,
  pace: WalkPace,
  buffers?: readonly Uint8Array[],
): AsyncGenerator<PageWindow, void, undefined> {
  const pageSize = sides[0]?.block.pageSize ?? WINDOW_BYTES;
  const windowPages = WINDOW_BYTES / pageSize;
  const cursors = sides.map((pages, side) => ({
    pages,
    runs: new RunCursor(pages.snapshot.presentRuns(pages.block)),
    buffer: buffers?.[side] ?? new Uint8Array(Math.min(WINDOW_BYTES, pageCount * pageSize)),
  }));
  const nextPresent = (from: number): number => Math.min(...cursors.map(({ runs }) => runs.next(from)));
  for (let start = nextPresent(0); start < pageCount;) {
    const end = Math.min(pageCount, start + windowPages);
    const contents = cursors.map(({ pages, runs, buffer }) => {
      if (runs.next(start) >= end) return undefined;
      const target = buffer.subarray(0, (end - start) * pageSize);
      pages.snapshot.readPages(pages.block, start, target);
      return target;
    });
    yield { start, end, contents };
    await pace.rest(end * pageSize);
    start = nextPresent(end);
  }
}

/** Where the next page with content is; asked for pages that only go up. */
class RunCursor {
  readonly #runs: Iterator<PageRun>;
  #run: PageRun | undefined;

  constructor(runs: Iterable<PageRun>) {
    this.#runs = runs[Symbol.iterator]();
    this.#advance();
  }

  /** The first page with content at or after `from`; infinite when there is none. */
  next(from: number): number {
    while (this.#run !== undefined && this.#run.end <= from) this.#advance();
    return this.#run === undefined ? Infinity : Math.max(from, this.#run.start);
  }

  #advance(): void {
    const result = this.#runs.next();
    this.#run = result.done === true ? undefined : result.value;
  }
}
