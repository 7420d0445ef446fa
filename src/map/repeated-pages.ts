/** Where a page was counted before it turned out to be one of several. */
export interface CountedPage {
  /** Of all blocks' cells. */
  readonly cell: number;
  readonly kind: number;
}

/** Kinds are told by so many bits. */
const KIND_BITS = 3;
const REPEATED = 0x8000_0000;

/**
 * Finds pages with equal content by their 64-bit hashes. Two pages that are not equal have the same hash with a chance of
 * 1 in 2^64; among the 2^24 pages of a guest of 64 GiB that some two do, 1 in 100,000.
 *
 * Takes 12 bytes for each page with content of its own, and 4 to 8 for its place in the table.
 */
export class RepeatedPages {
  /** Pages beyond which repetitions are not looked for: those of 128 GiB. What is kept of them takes some 700 MB. */
  static readonly LIMIT = 2 ** 25;
  /** How many different contents occur more than once. */
  contents = 0;
  readonly #slots: Uint32Array;
  readonly #low: Uint32Array;
  readonly #high: Uint32Array;
  readonly #counted: Uint32Array;
  #used = 0;

  /** @param pages The most pages that will be added, not more than {@link LIMIT}. */
  constructor(pages: number) {
    this.#slots = new Uint32Array(2 ** Math.ceil(Math.log2(Math.max(16, pages * 1.4))));
    this.#low = new Uint32Array(pages);
    this.#high = new Uint32Array(pages);
    this.#counted = new Uint32Array(pages);
  }

  /**
   * Adds a page.
   *
   * @param low Lower half of its hash.
   * @param high Upper half of it.
   * @param onFirst Called when this is the second page of its content, with where the first one was counted.
   * @returns Whether a page of this content was added before.
   */
  add(low: number, high: number, cell: number, kind: number, onFirst: (page: CountedPage) => void): boolean {
    const mask = this.#slots.length - 1;
    for (let slot = (low ^ Math.imul(high, 0x9e3779b1)) & mask; ; slot = (slot + 1) & mask) {
      const entry = (this.#slots[slot] ?? 0) - 1;
      if (entry < 0) {
        this.#slots[slot] = this.#used + 1;
        this.#low[this.#used] = low;
        this.#high[this.#used] = high;
        this.#counted[this.#used] = (cell << KIND_BITS) | kind;
        this.#used += 1;
        return false;
      }
      if (this.#low[entry] !== low || this.#high[entry] !== high) continue;
      const counted = this.#counted[entry] ?? 0;
      if (counted < REPEATED) {
        this.#counted[entry] = (counted | REPEATED) >>> 0;
        this.contents += 1;
        onFirst({ cell: counted >>> KIND_BITS, kind: counted & ((1 << KIND_BITS) - 1) });
      }
      return true;
    }
  }
}
