import type { PageBitmap, PageRun } from "../../memory/index.js";
import type { Breathe } from "../breathe.js";

/** What a dirty log takes from the program that its guest runs in. */
export interface DirtyLogCost {
  /** Bytes held beside the guest's memory. */
  readonly memoryBytes: number;
  /** Work of the last {@link DirtyLog.sync}, without the turns that the guest had in it; undefined before the first. */
  readonly lastSyncMs: number | undefined;
}

/**
 * Says which pages a guest changes while it runs, until {@link stop}.
 *
 * Pages are handed out by the log itself, because what counts as changed depends on what was handed out last.
 */
export interface DirtyLog {
  /** As of now; a log need not say. */
  readonly cost?: DirtyLogCost;
  /**
   * Sets the bits of all pages that have changed since {@link take} gave them out last. A page that never was given out
   * may be left out: it is dirty to its reader anyway.
   *
   * @param dirty One bitmap for each block, in the host's order.
   * @param breathe Called every few milliseconds of work; undefined when the guest stands still.
   */
  sync(dirty: readonly PageBitmap[], breathe: Breathe | undefined): Promise<void>;
  /**
   * Hands out pages as they are now, in one or more pieces of whole pages.
   *
   * @param use Gets each piece with its offset in the block; the bytes are only valid during the call.
   */
  take(block: number, run: PageRun, use: (bytes: Uint8Array, address: number) => void): void;
  stop(): void;
}
