/** What a page can look like from its bytes alone. */
export const PAGE_CLASSES = ["zero", "sparse", "text", "data", "dense"] as const;

/** One of {@link PAGE_CLASSES}. */
export type PageClass = (typeof PAGE_CLASSES)[number];

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
 * One for each page size; holds a few tables and nothing of the pages. It is also the rules of `PageScanner.classify` in
 * src/kernels/, which gives the same answers.
 */
export class PageClassifier {
  /** Bytes that are not zero, at most, in a sparse page. */
  readonly sparseBytes: number;
  /** Of the bytes that are not zero, the share that makes a page one of text. */
  readonly textShare = TEXT_SHARE;
  /** Entropy in bits a byte from where on a page is dense. */
  readonly denseBits: number;
  /** n log2 n. */
  readonly weights: Float64Array;
  readonly #pageSize: number;
  readonly #counts = new Uint32Array(256);

  /** @param pageSize Bytes. */
  constructor(pageSize: number) {
    this.#pageSize = pageSize;
    this.weights = Float64Array.from({ length: pageSize + 1 }, (_, n) => (n === 0 ? 0 : n * Math.log2(n)));
    this.sparseBytes = Math.floor(pageSize / SPARSE_DIVISOR);
    this.denseBits = pageSize < 1024 ? DENSE_BITS_SMALL : DENSE_BITS;
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
    if (used <= this.sparseBytes) return "sparse";
    if (countText(counts) >= used * TEXT_SHARE) return "text";
    return this.#entropyBits(counts) >= this.denseBits ? "dense" : "data";
  }

  /** The same, as an index of {@link PAGE_CLASSES}. */
  classIndex(bytes: Uint8Array, at: number): number {
    return PAGE_CLASSES.indexOf(this.classify(bytes, at));
  }

  /** Bits that a byte of the page carries on average. In four sums, as the kernel does: the last bits depend on the order. */
  #entropyBits(counts: Uint32Array): number {
    let [first, second, third, fourth] = [0, 0, 0, 0];
    for (let value = 0; value < 256; value += 4) {
      first += this.#weightOf(counts[value]);
      second += this.#weightOf(counts[value + 1]);
      third += this.#weightOf(counts[value + 2]);
      fourth += this.#weightOf(counts[value + 3]);
    }
    return Math.log2(this.#pageSize) - (first + second + (third + fourth)) / this.#pageSize;
  }

  #weightOf(count = 0): number {
    return this.weights[count] ?? 0;
  }
}

/** Bytes that are printable ASCII, tabs or line ends. */
function countText(counts: Uint32Array): number {
  let total = (counts[0x09] ?? 0) + (counts[0x0a] ?? 0) + (counts[0x0d] ?? 0);
  for (let value = 0x20; value < 0x7f; value++) total += counts[value] ?? 0;
  return total;
}
