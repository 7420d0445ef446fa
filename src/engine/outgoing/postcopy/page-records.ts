import { assert } from "../../../errors/index.js";
import { isZero } from "../../../memory/index.js";
import { RamFlag, ramRecordHeadBytes, writeRamRecordHead } from "../../../wire/index.js";
import type { PageSource } from "./page-source.js";

/** Room for what stands around pages: a section's head and end, and a head for each of the smallest pages. */
const SLACK_BYTES = 64 << 10;
/** EOS and footer, for which there is always room left. */
const END_BYTES = 16;

/** Target pages that were framed, those of a broken connection again: QEMU's `normal` and `duplicate`. */
export interface FramedPages {
  normal: number;
  zero: number;
}

/**
 * Frames pages as RAM records in one buffer: runs are read at once to where their records go, as in `PageSender`. One for
 * each channel.
 */
export class PageRecords {
  readonly #source: PageSource;
  readonly #counts: FramedPages;
  readonly #names: readonly Uint8Array[];
  readonly #staging: Uint8Array;
  readonly #view: DataView;
  #staged = 0;
  /** What CONTINUE would refer to; -1 where the next record has to name its block. */
  #currentBlock = -1;

  /**
   * @param pageBytes Bytes of pages that it has room for at least.
   * @param counts Counts pages; others may count in it too.
   */
  constructor(source: PageSource, pageBytes: number, counts: FramedPages) {
    this.#source = source;
    this.#counts = counts;
    this.#names = source.blocks.map(({ name }) => new TextEncoder().encode(name));
    this.#staging = new Uint8Array(pageBytes + SLACK_BYTES);
    this.#view = new DataView(this.#staging.buffer);
  }

  /** Bytes staged. */
  get length(): number {
    return this.#staged;
  }

  /** What was staged; valid until the next call. The buffer is empty afterwards, and continues the same block. */
  take(): Uint8Array {
    const bytes = this.#staging.subarray(0, this.#staged);
    this.#staged = 0;
    return bytes;
  }

  /** Puts other bytes between records; the next record names its block. */
  put(bytes: Uint8Array): void {
    this.#staging.set(bytes, this.#staged);
    this.#staged += bytes.length;
    this.#currentBlock = -1;
  }

  /**
   * Stages target pages of a block, in order, as many as there is room for.
   *
   * @returns The first page that was not staged: `end`, unless the buffer has to be taken before.
   */
  append(block: number, start: number, end: number): number {
    const content = this.#source.blocks[block]?.content;
    assert(content !== undefined, `no block ${block}`);
    for (let page = start; page < end;) {
      const dataStart = content.nextSet(page, end);
      while (page < dataStart && this.#roomFor(block, 1)) this.#putZero(block, page++);
      if (page < dataStart) return page;
      const dataEnd = content.nextClear(page, end);
      while (page < dataEnd) {
        if (!this.#roomFor(block, this.#source.targetPageSize)) return page;
        page += this.#appendContent(block, page, dataEnd);
      }
    }
    return end;
  }

  /** Reads as many pages as there is room for, at least one, and puts their heads in. Returns how many. */
  #appendContent(block: number, first: number, end: number): number {
    const { targetPageSize, looksForZeros } = this.#source;
    const recordBytes = ramRecordHeadBytes(undefined) + targetPageSize;
    const firstBytes = ramRecordHeadBytes(this.#nameFor(block)) + targetPageSize;
    const room = this.#staging.length - END_BYTES - this.#staged - firstBytes;
    const count = Math.min(end - first, 1 + Math.floor(room / recordBytes));
    const stagedEnd = this.#staged + firstBytes + (count - 1) * recordBytes;
    // The last page is read to its place; those before it are moved up to theirs from the first one on, and so nothing is
    // overwritten that is still to be moved.
    let from = stagedEnd - count * targetPageSize;
    this.#source.readPages(block, first, this.#staging.subarray(from, stagedEnd));
    for (let page = first; page < first + count; page++) {
      if (looksForZeros && isZero(this.#staging, from, targetPageSize)) {
        this.#putZero(block, page);
      } else {
        this.#putHead(block, page, RamFlag.PAGE);
        if (from !== this.#staged) this.#staging.copyWithin(this.#staged, from, from + targetPageSize);
        this.#staged += targetPageSize;
        this.#counts.normal += 1;
      }
      from += targetPageSize;
    }
    return count;
  }

  #putZero(block: number, page: number): void {
    this.#putHead(block, page, RamFlag.ZERO);
    this.#view.setUint8(this.#staged++, 0);
    this.#counts.zero += 1;
  }

  #putHead(block: number, page: number, flag: typeof RamFlag.PAGE | typeof RamFlag.ZERO): void {
    const address = page * this.#source.targetPageSize;
    this.#staged = writeRamRecordHead(this.#view, this.#staged, address, flag, this.#nameFor(block));
    this.#currentBlock = block;
  }

  #nameFor(block: number): Uint8Array | undefined {
    return block === this.#currentBlock ? undefined : this.#names[block];
  }

  /** Keeps room for the end of the section too. */
  #roomFor(block: number, dataBytes: number): boolean {
    const recordBytes = ramRecordHeadBytes(this.#nameFor(block)) + dataBytes;
    return this.#staged + recordBytes + END_BYTES <= this.#staging.length;
  }
}
