import type { PositionedFile } from "./positioned-file.js";

/**
 * Written in one call. A write of 1 MiB makes ext4 allocate folios of that size, which took up to 2.5 times the processor
 * time of 256 KiB (0.5 against 0.2 s a GiB); below 128 KiB the calls themselves begin to count. Writes end at multiples of
 * it: folios lie at multiples of their size, and what begins beside one is given small ones (0.21 s a GiB instead of 0.17).
 */
const STAGING_BYTES = 256 << 10;

/**
 * Gathers pages that follow each other in the file and writes them in one call. Pages of a stream come with headers
 * between them; a copy of 4 KiB costs a tenth of a system call for it.
 *
 * Writes happen in the order of the puts: a page that comes again overwrites what came before.
 */
export class WriteCombiner {
  #file: PositionedFile | undefined;
  readonly #staging = new Uint8Array(STAGING_BYTES);
  /** File position of `staging[0]`. */
  #position = 0;
  #length = 0;
  /** Of the staging: as far as the next place where writes end. */
  #capacity = 0;

  /** Takes `bytes[at .. at+length)` for `position` of a file; `length` is at most 64 KiB. */
  put(file: PositionedFile, position: number, bytes: Uint8Array, at: number, length: number): void {
    const follows = position === this.#position + this.#length && file === this.#file;
    if (!follows || this.#length + length > this.#capacity) {
      this.flush();
      this.#file = file;
      this.#position = position;
      this.#capacity = STAGING_BYTES - (position % STAGING_BYTES);
    }
    // Buffer.copy() allocates as well, and was no faster; copyWithin() cannot cross buffers.
    this.#staging.set(bytes.subarray(at, at + length), this.#length);
    this.#length += length;
  }

  /** Writes what has been gathered. */
  flush(): void {
    if (this.#length > 0) this.#file?.writeAt(this.#staging, 0, this.#length, this.#position);
    this.#position = 0;
    this.#length = 0;
  }
}
