import { UsageError } from "../../errors/index.js";
import { PageBitmap, type PageRun } from "../../memory/index.js";
import { eachPiece, type HostRamBlock } from "../ram-block.js";
import type { DirtyLog, DirtyLogCost } from "./dirty-log.js";

const PIECE_BYTES = 1 << 30;

/**
 * Hears of each write from a host that sees them: exact, at one bit a page, and its {@link sync} only looks at bits.
 *
 * A write counts as seen when it was marked before the page was handed out: its bytes are in what the reader got. So
 * {@link mark} has to follow the write, or stand in the same synchronous stretch of code. Where a guest writes from
 * another thread, mark after the write.
 */
export class MarkedDirtyLog implements DirtyLog {
  readonly #blocks: () => readonly HostRamBlock[];
  readonly #pageSize: number;
  #marks: readonly PageBitmap[];
  #lastSyncMs: number | undefined;

  /** @param blocks Gives the blocks with views that are valid now. */
  constructor(blocks: () => readonly HostRamBlock[], pageSize: number) {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#marks = blocks().map(({ usedLength }) => new PageBitmap(usedLength / pageSize));
  }

  get cost(): DirtyLogCost {
    const memoryBytes = this.#marks.reduce((sum, { pageCount }) => sum + Math.ceil(pageCount / 64) * 8, 0);
    return { memoryBytes, lastSyncMs: this.#lastSyncMs };
  }

  /**
   * Says that the guest wrote to `address .. address + length` of a block. Cheap enough for each write of an
   * interpreter. After {@link stop} it does nothing. Of a block that has grown, the part that was there at the start
   * counts: the migration is going to fail with the reason, and the guest must not.
   *
   * @throws UsageError when that is not within the block.
   */
  mark(block: number, address: number, length: number): void {
    const marks = this.#marks[block];
    if (marks === undefined || length === 0) return;
    const pageSize = this.#pageSize;
    const first = Math.floor(address / pageSize);
    const last = Math.floor((address + length - 1) / pageSize);
    if (!(first >= 0 && last >= first)) throw beyond(block, address, length);
    if (last >= marks.pageCount) {
      if (address + length > (this.#blocks()[block]?.usedLength ?? 0)) throw beyond(block, address, length);
      if (first < marks.pageCount) marks.setRange(first, marks.pageCount);
    } else if (first === last) marks.set(first);
    else marks.setRange(first, last + 1);
  }

  /** Needs no breath: a bit a page is looked through in no time. */
  sync(dirty: readonly PageBitmap[]): Promise<void> {
    const startMs = performance.now();
    for (const [block, marks] of this.#marks.entries()) {
      for (const { start, end } of marks.runs()) dirty[block]?.setRange(start, end);
      marks.clearRange(0, marks.pageCount);
    }
    this.#lastSyncMs = performance.now() - startMs;
    return Promise.resolve();
  }

  take(block: number, run: PageRun, use: (bytes: Uint8Array, address: number) => void): void {
    // Before the bytes are read: a write that another thread makes meanwhile is marked again.
    this.#marks[block]?.clearRange(run.start, run.end);
    const pageSize = this.#pageSize;
    const live = this.#blocks()[block]?.segments ?? [];
    eachPiece(live, run.start * pageSize, (run.end - run.start) * pageSize, PIECE_BYTES, use);
  }

  stop(): void {
    this.#marks = [];
  }
}

function beyond(block: number, address: number, length: number): UsageError {
  return new UsageError(
    `A write of ${length} bytes at ${address} was marked, which is not within RAM block number ${block}`,
  );
}
