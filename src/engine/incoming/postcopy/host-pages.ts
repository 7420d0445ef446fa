import { FormatError } from "../../../errors/index.js";
import { RAM_SECTION, type RamRecordSink } from "../../../wire/index.js";
import type { PostcopyMemory } from "../../postcopy/postcopy-host.js";
import type { MissingBlock, MissingPages } from "./missing-pages.js";

/** So many bytes of neighbours are placed at once: a system call costs as much as copying a few pages. */
const RUN_BYTES = 256 << 10;

/**
 * The temporary pages of one channel (`PostcopyTmpPage` of QEMU): target pages are collected until a host page is whole, and
 * whole ones until there is reason to place them ({@link flush}). Neighbours of one kind are placed together.
 *
 * Each channel has its own, since two channels have host pages under way at a time. What one has collected must be flushed
 * before the other one's pages are looked at.
 */
export class HostPages implements RamRecordSink {
  readonly #missing: MissingPages;
  readonly #memory: PostcopyMemory;
  readonly #onPlaced: (block: MissingBlock, address: number, length: number) => void;
  readonly #buffer: Uint8Array;
  #block: MissingBlock | undefined;
  /** Where the run of whole host pages begins in the block, and how many bytes of them there are. */
  #runAddress = 0;
  #runBytes = 0;
  #runIsZero = false;
  /** What was collected of the host page behind the run; its bytes follow the run's, if that has any in the buffer. */
  #pageBytes = 0;
  #pageIsZero = true;
  #normal = 0;
  #zero = 0;

  /** @param onPlaced Called for each run, after it was placed and noted. */
  constructor(
    missing: MissingPages,
    memory: PostcopyMemory,
    onPlaced: (block: MissingBlock, address: number, length: number) => void,
  ) {
    this.#missing = missing;
    this.#memory = memory;
    this.#onPlaced = onPlaced;
    const largest = missing.blocks.reduce((most, { hostPageSize }) => Math.max(most, hostPageSize), 0);
    this.#buffer = new Uint8Array(Math.max(largest, RUN_BYTES));
  }

  /** Target pages as they came. */
  get counts(): { readonly normal: number; readonly zero: number } {
    return { normal: this.#normal, zero: this.#zero };
  }

  page(block: number, address: number, bytes: Uint8Array, at: number, offset?: number): void {
    const pageSize = this.#missing.targetPageSize;
    const { hostPageSize } = this.#begin(block, address, offset);
    this.#buffer.set(bytes.subarray(at, at + pageSize), this.#pageStart + this.#pageBytes);
    this.#pageIsZero = false;
    this.#normal += 1;
    this.#collected(pageSize, hostPageSize);
  }

  zeroPage(block: number, address: number, offset?: number): void {
    const pageSize = this.#missing.targetPageSize;
    const { hostPageSize } = this.#begin(block, address, offset);
    if (hostPageSize > pageSize) {
      const at = this.#pageStart + this.#pageBytes;
      this.#buffer.fill(0, at, at + pageSize);
    }
    this.#zero += 1;
    this.#collected(pageSize, hostPageSize);
  }

  xbzrlePage(
    block: number,
    address: number,
    _bytes: Uint8Array,
    _at: number,
    _length: number,
    offset?: number,
  ): void {
    const message = "A change of a page came where only whole pages can";
    throw this.#refusal("unsupported", message, block, address, { offset });
  }

  compressedPage(
    block: number,
    address: number,
    _bytes: Uint8Array,
    _at: number,
    _length: number,
    offset?: number,
  ): void {
    const message = "A compressed page came after postcopy began";
    throw this.#refusal("unsupported", message, block, address, { offset });
  }

  /** Places what is whole. What is not stays. */
  flush(): void {
    const block = this.#block;
    if (block === undefined || this.#runBytes === 0) return;
    const address = this.#runAddress;
    const length = this.#runBytes;
    const pageStart = this.#pageStart;
    if (this.#runIsZero) this.#memory.placeZero(block.index, address, length);
    else this.#memory.place(block.index, address, this.#buffer, 0, length);
    this.#runAddress += length;
    this.#runBytes = 0;
    if (pageStart > 0) this.#buffer.copyWithin(0, pageStart, pageStart + this.#pageBytes);
    this.#missing.placed(block, address, length);
    this.#onPlaced(block, address, length);
  }

  /** @throws FormatError when a host page is not whole: nothing more will come. */
  checkWhole(offset: number): void {
    const block = this.#block;
    if (block === undefined || this.#pageBytes === 0) return;
    throw new FormatError("inconsistent", "Guest memory ends in the middle of a host page", {
      offset,
      section: RAM_SECTION.name,
      block: block.name,
      expected: `${block.hostPageSize} bytes at 0x${this.#pageAddress.toString(16)}`,
      actual: `${this.#pageBytes} bytes`,
    });
  }

  /** Where in the buffer the host page is that is being collected. */
  get #pageStart(): number {
    return this.#runIsZero ? 0 : this.#runBytes;
  }

  /** Where in the block it is. */
  get #pageAddress(): number {
    return this.#runAddress + this.#runBytes;
  }

  /** Checks that the page may come now, and makes room for it. */
  #begin(place: number, address: number, offset: number | undefined): MissingBlock {
    const block = this.#missing.block(place);
    const { hostPageSize } = block;
    if (this.#pageBytes > 0) {
      if (block === this.#block && address === this.#pageAddress + this.#pageBytes) return block;
      const expected = `${this.#block?.name ?? ""} at 0x${(this.#pageAddress + this.#pageBytes).toString(16)}`;
      const message = "Another page came before a host page was whole";
      throw this.#refusal("inconsistent", message, place, address, { offset, expected });
    }
    if (block.received === undefined) {
      const message = "A RAM block that is shared has pages all the same";
      throw this.#refusal("inconsistent", message, place, address, { offset });
    }
    if (address % hostPageSize !== 0) {
      const message = "A host page does not begin with its first target page";
      const expected = `a multiple of 0x${hostPageSize.toString(16)}`;
      throw this.#refusal("inconsistent", message, place, address, { offset, expected });
    }
    const follows = block === this.#block && address === this.#pageAddress;
    if (!follows || this.#pageStart + hostPageSize > this.#buffer.length) {
      this.flush();
      this.#block = block;
      this.#runAddress = address;
      this.#runIsZero = false;
    }
    if (this.#missing.has(block, address)) {
      throw this.#refusal("inconsistent", "A page came that had come before", place, address, { offset });
    }
    return block;
  }

  #collected(pageSize: number, hostPageSize: number): void {
    this.#pageBytes += pageSize;
    if (this.#pageBytes < hostPageSize) return;
    // A run is of one kind; the page's bytes move to the front if there are any.
    if (this.#runIsZero !== this.#pageIsZero) this.flush();
    this.#runIsZero = this.#pageIsZero;
    this.#runBytes += hostPageSize;
    this.#pageBytes = 0;
    this.#pageIsZero = true;
  }

  #refusal(
    code: "inconsistent" | "unsupported",
    message: string,
    place: number,
    address: number,
    { offset, expected }: { readonly offset?: number | undefined; readonly expected?: string } = {},
  ): FormatError {
    return new FormatError(code, message, {
      ...(offset === undefined ? {} : { offset }),
      section: RAM_SECTION.name,
      block: this.#missing.block(place).name,
      ...(expected === undefined ? {} : { expected }),
      actual: `page at 0x${address.toString(16)}`,
    });
  }
}
