/** How {@link PageScanner.classify} tells classes apart. `PageClassifier` in src/memory/ has them. */
export interface PageClassRules {
  /** Bytes that are not zero, at most, in a sparse page. */
  readonly sparseBytes: number;
  /** Of the bytes that are not zero, the share that makes a page one of text. */
  readonly textShare: number;
  /** Entropy in bits a byte from where on a page is dense. */
  readonly denseBits: number;
  /** n log2 n for each n up to the page size. */
  readonly weights: Float64Array;
  /** The class of the page at `bytes[at]`: 0 zero, 1 sparse, 2 text, 3 data, 4 dense. */
  classIndex(bytes: Uint8Array, at: number): number;
}

/** What a scanner is made for. */
export interface PageScannerOptions {
  /** Bytes: a multiple of 64. */
  readonly pageSize: number;
  /** Pages that an area holds. */
  readonly areaPages: number;
  /** How many areas there are; default 1. */
  readonly areas?: number;
  /** Needed for {@link PageScanner.classify}. */
  readonly classes?: PageClassRules;
}

/**
 * Looks at pages in its own memory, many with one call. Callers read files or sockets right into {@link areas}; what has
 * to be copied there first is mostly looked at faster where it is (decision 9).
 *
 * Pages are counted from the start of an area. Results are valid until the same method is called for the same area again.
 */
export interface PageScanner {
  readonly pageSize: number;
  /** Where pages are put. Each begins at a multiple of 64 KiB in memory: good for O_DIRECT. Zero at first. */
  readonly areas: readonly Uint8Array[];
  /** The first `count` pages of an area. */
  area(area: number, count: number): Uint8Array;
  /** Which of the first `count` pages of an area have a byte that is not zero: bits as `PageBitmap.fromBytes` takes them. */
  findContent(area: number, count: number): Uint8Array;
  /** Which of the first `count` pages differ between the first two areas: bits as those of {@link findContent}. */
  findChanged(count: number): Uint8Array;
  /** One byte for each of the first `count` pages: its class, as {@link PageClassRules.classIndex} says. */
  classify(area: number, count: number): Uint8Array;
  /**
   * XXH64 of pages `start` up to, not including, `end`: two words each, the low one first. Page `i` has words `2 * i` and
   * `2 * i + 1`; what the array has of other pages is left over.
   *
   * @param seed 64 bits.
   */
  xxh64(area: number, start: number, end: number, seed: bigint): Uint32Array;
  /** CRC-32 (that of zlib) of pages `start` up to, not including, `end`: word `i` for page `i`. */
  crc32(area: number, start: number, end: number): Uint32Array;
}
