import { assert } from "../errors/index.js";

const FULL_WORD = 0xffffffff;

const hostIsLittleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/**
 * One bit a page. Held in 32-bit words whose bytes, on a little-endian machine, are the file's: bit `i` is bit
 * `i mod 8` of byte `i / 8`, in whole 64-bit words as QEMU stores its `unsigned long` bitmaps.
 */
export class PageBitmap {
  readonly pageCount: number;
  readonly #words: Uint32Array;

  /** An all-clear bitmap for `pageCount` pages. */
  constructor(pageCount: number) {
    assert(Number.isSafeInteger(pageCount) && pageCount >= 0, `page count ${pageCount}`);
    this.pageCount = pageCount;
    this.#words = new Uint32Array(Math.ceil(pageCount / 64) * 2);
  }

  /** A bitmap from the file's little-endian bytes; those past `bytes` stay clear. */
  static fromBytes(pageCount: number, bytes: Uint8Array): PageBitmap {
    const bitmap = new PageBitmap(pageCount);
    const own = new Uint8Array(bitmap.#words.buffer);
    own.set(bytes.subarray(0, own.length));
    if (!hostIsLittleEndian) swapWords(bitmap.#words);
    return bitmap;
  }

  /** The same pages again. */
  copy(): PageBitmap {
    const copy = new PageBitmap(this.pageCount);
    copy.#words.set(this.#words);
    return copy;
  }

  /** The file's bytes: little-endian, whole 64-bit words. On a little-endian machine a view, else a copy. */
  toBytes(): Uint8Array {
    if (hostIsLittleEndian) return new Uint8Array(this.#words.buffer);
    const copy = this.#words.slice();
    swapWords(copy);
    return new Uint8Array(copy.buffer);
  }

  has(page: number): boolean {
    return ((this.#word(page >>> 5) >>> (page & 31)) & 1) === 1;
  }

  set(page: number): void {
    this.#words[page >>> 5] = this.#word(page >>> 5) | (1 << (page & 31));
  }

  clear(page: number): void {
    this.#words[page >>> 5] = this.#word(page >>> 5) & ~(1 << (page & 31));
  }

  /** Sets pages `start` up to, not including, `end`. */
  setRange(start: number, end: number): void {
    let page = start;
    while (page < end && (page & 31) !== 0) this.set(page++);
    page = this.#fillWords(page, end, FULL_WORD);
    while (page < end) this.set(page++);
  }

  /** Clears pages `start` up to, not including, `end`. */
  clearRange(start: number, end: number): void {
    let page = start;
    while (page < end && (page & 31) !== 0) this.clear(page++);
    page = this.#fillWords(page, end, 0);
    while (page < end) this.clear(page++);
  }

  /** The first set page at or after `from` and before `until`, or `until`: nothing behind that is looked at. */
  nextSet(from: number, until = this.pageCount): number {
    return this.#next(from, 0, Math.min(until, this.pageCount));
  }

  /** The first clear page at or after `from` and before `until`, or `until`: nothing behind that is looked at. */
  nextClear(from: number, until = this.pageCount): number {
    return this.#next(from, FULL_WORD, Math.min(until, this.pageCount));
  }

  /** How many pages are set. */
  count(): number {
    const words = this.#words;
    let total = 0;
    // By index, for an iterator over a typed array is many times slower, and without calls: a restore counts when none of this
    // is compiled yet.
    // eslint-disable-next-line @typescript-eslint/prefer-for-of
    for (let index = 0; index < words.length; index++) {
      const word = words[index] ?? 0;
      if (word === FULL_WORD) total += 32;
      else if (word !== 0) total += popCount(word);
    }
    return total - this.tailBits();
  }

  /** How many bits are set past the last page; a sound bitmap has none. */
  tailBits(): number {
    let total = 0;
    for (let bit = this.pageCount; bit < this.#words.length * 32; bit++) {
      if (this.has(bit)) total += 1;
    }
    return total;
  }

  /** Runs of pages that are set, in order. */
  *runs(): Generator<PageRun, void, undefined> {
    for (let start = this.nextSet(0); start < this.pageCount;) {
      const end = this.nextClear(start);
      yield { start, end };
      start = this.nextSet(end);
    }
  }

  /** Runs of pages that are clear, in order. */
  *clearRuns(): Generator<PageRun, void, undefined> {
    for (let start = this.nextClear(0); start < this.pageCount;) {
      const end = this.nextSet(start);
      yield { start, end };
      start = this.nextClear(end);
    }
  }

  /** The pages that are set here and clear in `other`, which covers as many pages. */
  without(other: PageBitmap): PageBitmap {
    assert(other.pageCount === this.pageCount, "bitmaps of different lengths");
    const result = this.copy();
    const words = result.#words;
    const others = other.#words;
    for (let index = 0; index < words.length; index++) {
      const without = others[index] ?? 0;
      if (without !== 0) words[index] = (words[index] ?? 0) & ~without;
    }
    return result;
  }

  /** Fills the words that lie wholly in a range that begins on one; returns the first page behind them. */
  #fillWords(start: number, end: number, value: number): number {
    const words = Math.max(0, end - start) >>> 5;
    this.#words.fill(value, start >>> 5, (start >>> 5) + words);
    return start + words * 32;
  }

  #next(from: number, flip: number, until: number): number {
    if (from >= until) return until;
    let index = from >>> 5;
    let word = (this.#word(index) ^ flip) & (0xffffffff << (from & 31));
    while (word === 0) {
      index += 1;
      if (index * 32 >= until) return until;
      word = this.#word(index) ^ flip;
    }
    const lowestBit = 31 - Math.clz32(word & -word);
    return Math.min(index * 32 + lowestBit, until);
  }

  #word(index: number): number {
    return this.#words[index] ?? 0;
  }
}

/** Pages `start` up to, not including, `end`. */
export interface PageRun {
  readonly start: number;
  readonly end: number;
}

function popCount(word: number): number {
  const pairs = word - ((word >>> 1) & 0x55555555);
  const nibbles = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
  return (((nibbles + (nibbles >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}

function swapWords(words: Uint32Array): void {
  const view = new DataView(words.buffer);
  for (let index = 0; index < words.length; index++) {
    view.setUint32(index * 4, view.getUint32(index * 4, false), true);
  }
}
