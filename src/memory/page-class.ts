/** What a page looks like from its bytes alone. */
export type PageClass = "zero" | "sparse" | "text" | "data" | "dense";

/** A page is sparse when at most one byte in this many is not zero. */
const SPARSE_DIVISOR = 16;
/** Of the bytes that are not zero, how many must be text for a page to be text: UTF-16 and padded strings count too. */
const TEXT_SHARE = 0.85;
/** Entropy in bits a byte from where on a page is dense: compressed or encrypted bytes, or noise. */
const DENSE_BITS = 7.2;
/** The same for pages of less than 1 KiB: noise of 256 bytes has not every value in it, and so some 7.2 bits at most. */
const DENSE_BITS_SMALL = 6.9;

/**
 * Tells kinds of pages apart: zero; sparse; text; dense, which nothing compresses; and everything else, which is data:
 * code, tables, structures.
 *
 * One for each page size; holds a few tables and nothing of the pages.
 */
export class PageClassifier {
  readonly #pageSize: number;
  readonly #counts = new Uint32Array(256);
  /** n log2 n. */
  readonly #weights: Float64Array;
  readonly #denseBits: number;

  constructor(pageSize: number) {
    this.#pageSize = pageSize;
    this.#weights = Float64Array.from({ length: pageSize + 1 }, (_, n) => (n === 0 ? 0 : n * Math.log2(n)));
    this.#denseBits = pageSize < 1024 ? DENSE_BITS_SMALL : DENSE_BITS;
  }

  /** Classifies the page that starts at `bytes[at]`. */
  classify(bytes: Uint8Array, at: number): PageClass {
    const counts = this.#counts.fill(0);
    const end = at + this.#pageSize;
    for (let index = at; index < end; index++) {
      const value = bytes[index] ?? 0;
      counts[value] = (counts[value] ?? 0) + 1;
    }
    const used = this.#pageSize - (counts[0] ?? 0);
    if (used === 0) return "zero";
    if (used * SPARSE_DIVISOR <= this.#pageSize) return "sparse";
    if (countText(counts) >= used * TEXT_SHARE) return "text";
    return this.#entropyBits(counts) >= this.#denseBits ? "dense" : "data";
  }

  /** Bits that a byte of the page carries on average. */
  #entropyBits(counts: Uint32Array): number {
    let sum = 0;
    for (let value = 0; value < 256; value++) sum += this.#weights[counts[value] ?? 0] ?? 0;
    return Math.log2(this.#pageSize) - sum / this.#pageSize;
  }
}

/** Bytes that are printable ASCII, tabs or line ends. */
function countText(counts: Uint32Array): number {
  let total = (counts[0x09] ?? 0) + (counts[0x0a] ?? 0) + (counts[0x0d] ?? 0);
  for (let value = 0x20; value < 0x7f; value++) total += counts[value] ?? 0;
  return total;
}
