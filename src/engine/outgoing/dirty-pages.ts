import { PageBitmap, type PageRun } from "../../memory/index.js";

/** Pages of one block. */
export interface BlockRun extends PageRun {
  /** Place in the host's list. */
  readonly block: number;
}

/** The pages that have to be sent, and where in them the sender is: `migration_dirty_pages` and `PageSearchStatus` in QEMU. */
export class DirtyPages {
  /** One for each block; a dirty log sets bits here. */
  readonly bitmaps: readonly PageBitmap[];
  #remaining = 0;
  #block = 0;
  #page = 0;

  /** @param pageCounts Pages of each block; 0 for one that does not travel. */
  constructor(pageCounts: readonly number[]) {
    this.bitmaps = pageCounts.map((count) => new PageBitmap(count));
  }

  /** Pages that are set, as of the last {@link recount} and what was taken since. */
  get remaining(): number {
    return this.#remaining;
  }

  setAll(): void {
    for (const bitmap of this.bitmaps) bitmap.setRange(0, bitmap.pageCount);
    this.recount();
  }

  /** Counts what is set, after a dirty log has set bits. Returns how many pages are new. */
  recount(): number {
    const before = this.#remaining;
    this.#remaining = this.bitmaps.reduce((sum, bitmap) => sum + bitmap.count(), 0);
    return this.#remaining - before;
  }

  /**
   * Takes the next run, behind the last one and around: its bits are clear afterwards.
   *
   * @param most Pages.
   * @returns Undefined when nothing is dirty.
   */
  take(most: number): BlockRun | undefined {
    if (this.#remaining === 0) return undefined;
    // Once more over the first block: what is before the place where it was begun.
    for (let looked = 0; looked <= this.bitmaps.length; looked++) {
      const bitmap = this.bitmaps[this.#block];
      if (bitmap !== undefined) {
        const start = bitmap.nextSet(this.#page);
        if (start < bitmap.pageCount) return this.#takeFrom(bitmap, start, most);
      }
      this.#block = (this.#block + 1) % this.bitmaps.length;
      this.#page = 0;
    }
    return undefined;
  }

  #takeFrom(bitmap: PageBitmap, start: number, most: number): BlockRun {
    const end = Math.min(bitmap.nextClear(start), start + most);
    bitmap.clearRange(start, end);
    this.#page = end;
    this.#remaining -= end - start;
    return { block: this.#block, start, end };
  }
}
