import { XbzrleKernel } from "../../kernels/index.js";
import { encodeXbzrleAt, type WordReadable, wordReadable } from "../../wire/index.js";

/** What the length in an xbzrle record can say. */
const MAX_DELTA_BYTES = 0xffff;

/** Pages by number, as a receiver has them, and what changed in them. All are zero at first. */
export interface XbzrlePages {
  /** The last delta, from its start on. */
  readonly delta: Uint8Array;
  /**
   * Encodes the page at `bytes[at]` against page `page`, whose content it then is.
   *
   * @returns Bytes of {@link delta}; 0 when nothing changed; -1 when it would take more than the page, or than a record can
   *   say.
   */
  update(page: number, bytes: Uint8Array, at: number): number;
  /** Makes the page at `bytes[at]` the content of page `page`. */
  store(page: number, bytes: Uint8Array, at: number): void;
  /** Makes a page zero. */
  clear(page: number): void;
}

/**
 * So many pages, in the kernel's memory where it can run.
 *
 * @param pageSize Bytes: a multiple of 64.
 * @throws RangeError when there is not that much memory.
 */
export function createXbzrlePages(pageSize: number, count: number): XbzrlePages {
  const kernel = XbzrleKernel.start(pageSize, count);
  return kernel === undefined ? new PlainXbzrlePages(pageSize, count) : new FastXbzrlePages(kernel, pageSize);
}

class FastXbzrlePages implements XbzrlePages {
  readonly #kernel: XbzrleKernel;
  readonly #pageSize: number;

  constructor(kernel: XbzrleKernel, pageSize: number) {
    this.#kernel = kernel;
    this.#pageSize = pageSize;
  }

  get delta(): Uint8Array {
    return this.#kernel.delta;
  }

  update(page: number, bytes: Uint8Array, at: number): number {
    this.#kernel.fresh.set(bytes.subarray(at, at + this.#pageSize));
    return this.#kernel.update(page, Math.min(this.#pageSize, MAX_DELTA_BYTES));
  }

  store(page: number, bytes: Uint8Array, at: number): void {
    this.#kernel.fresh.set(bytes.subarray(at, at + this.#pageSize));
    this.#kernel.store(page);
  }

  clear(page: number): void {
    this.#kernel.clear(page);
  }
}

/** Where there is no WebAssembly. */
export class PlainXbzrlePages implements XbzrlePages {
  readonly delta: Uint8Array;
  readonly #pageSize: number;
  readonly #pages: WordReadable;
  /** For pages that do not begin on a word. */
  readonly #scratch: WordReadable;
  /** The buffer that the last page was in, and its words. */
  #source: WordReadable;

  /** @throws RangeError when there is not that much memory. */
  constructor(pageSize: number, count: number) {
    this.#pageSize = pageSize;
    this.delta = new Uint8Array(pageSize);
    this.#pages = wordReadable(new Uint8Array(count * pageSize));
    this.#scratch = wordReadable(new Uint8Array(pageSize));
    this.#source = this.#scratch;
  }

  update(page: number, bytes: Uint8Array, at: number): number {
    const length = this.#encode(page, bytes, at);
    if (length !== 0) this.store(page, bytes, at);
    return length;
  }

  store(page: number, bytes: Uint8Array, at: number): void {
    this.#pages.bytes.set(bytes.subarray(at, at + this.#pageSize), page * this.#pageSize);
  }

  clear(page: number): void {
    this.#pages.bytes.fill(0, page * this.#pageSize, (page + 1) * this.#pageSize);
  }

  #encode(page: number, bytes: Uint8Array, at: number): number {
    const pageSize = this.#pageSize;
    const limit = Math.min(pageSize, MAX_DELTA_BYTES);
    const oldAt = page * pageSize;
    if (((bytes.byteOffset | at) & 3) !== 0) {
      this.#scratch.bytes.set(bytes.subarray(at, at + pageSize));
      return encodeXbzrleAt(this.#pages, oldAt, this.#scratch, 0, pageSize, this.delta, 0, limit);
    }
    // The words are a view: whatever else the buffer holds by now.
    if (bytes !== this.#source.bytes) this.#source = wordReadable(bytes);
    return encodeXbzrleAt(this.#pages, oldAt, this.#source, at, pageSize, this.delta, 0, limit);
  }
}
