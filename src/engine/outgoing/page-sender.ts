import type { RandomAccessSource } from "../../channels/index.js";
import { RAM_SECTION, RamFlag, ramRecordHeadBytes, writeRamRecordHead } from "../../wire/index.js";
import { readPageBitmap } from "../mapped-ram/bitmaps.js";
import type { MappedRamBlock } from "../mapped-ram/open.js";
import { readInFull } from "../read-in-full.js";

/** Small enough for the processor's cache, and what files are best written in: see `WriteCombiner`. */
const STAGING_BYTES = 256 << 10;

/**
 * Frames the pages of a mapped-ram file as RAM records: runs are read in large pieces, right to where their records go, and
 * there is one write for each buffer full of them.
 */
export class PageSender {
  normalPages = 0;
  zeroPages = 0;
  readonly #file: RandomAccessSource;
  readonly #pageSize: number;
  readonly #write: (bytes: Uint8Array, coveredBytes: number) => Promise<void>;
  readonly #staging = new Uint8Array(STAGING_BYTES);
  readonly #view = new DataView(this.#staging.buffer);
  #staged = 0;
  /** Name of the block whose first record is still to come; undefined afterwards, when records continue the block. */
  #newBlock: Uint8Array | undefined;

  /** @param write Hands bytes on; `coveredBytes` is how much of guest memory they and all before them stand for. */
  constructor(
    file: RandomAccessSource,
    pageSize: number,
    write: (bytes: Uint8Array, coveredBytes: number) => Promise<void>,
  ) {
    this.#file = file;
    this.#pageSize = pageSize;
    this.#write = write;
  }

  /** Sends every page of a block, zero pages too: a destination's ROMs are not zero before they are loaded. */
  async sendBlock(block: MappedRamBlock): Promise<void> {
    const { mapped } = block;
    // A shared block that was left out is the destination's already.
    if (mapped === undefined) return;
    this.#newBlock = new TextEncoder().encode(block.name);
    const bitmap = readPageBitmap(this.#file, block);
    for (let page = 0; page < bitmap.pageCount;) {
      const dataStart = bitmap.nextSet(page);
      await this.#sendZeros(page, dataStart);
      const dataEnd = bitmap.nextClear(dataStart);
      await this.#sendRun(block.name, mapped.pagesOffset, dataStart, dataEnd);
      page = dataEnd;
    }
  }

  /** The same for its zero pages alone: the others go another way. */
  async sendZeroPages(block: MappedRamBlock): Promise<void> {
    if (block.mapped === undefined) return;
    this.#newBlock = new TextEncoder().encode(block.name);
    for (const { start, end } of readPageBitmap(this.#file, block).clearRuns()) {
      await this.#sendZeros(start, end);
    }
  }

  /** Writes what is still in the buffer. */
  async flush(): Promise<void> {
    if (this.#staged === 0) return;
    const covered = (this.normalPages + this.zeroPages) * this.#pageSize;
    await this.#write(this.#staging.subarray(0, this.#staged), covered);
    this.#staged = 0;
  }

  async #sendZeros(start: number, end: number): Promise<void> {
    for (let page = start; page < end;) {
      // As many as fit, without a promise for each.
      while (page < end && this.#roomFor(1)) {
        this.#putHead(page, RamFlag.ZERO);
        this.#view.setUint8(this.#staged++, 0);
        page += 1;
        this.zeroPages += 1;
      }
      if (page < end) await this.flush();
    }
  }

  async #sendRun(block: string, pagesOffset: number, start: number, end: number): Promise<void> {
    for (let first = start; first < end;) {
      if (!this.#roomFor(this.#pageSize)) await this.flush();
      first += this.#stagePages(block, pagesOffset, first, end);
    }
  }

  /** Reads as many pages as there is room for, at least one, and puts their heads in. Returns how many. */
  #stagePages(block: string, pagesOffset: number, first: number, end: number): number {
    const pageSize = this.#pageSize;
    const recordBytes = ramRecordHeadBytes(undefined) + pageSize;
    const room = STAGING_BYTES - this.#staged - ramRecordHeadBytes(this.#newBlock) - pageSize;
    const count = Math.min(end - first, 1 + Math.floor(room / recordBytes));
    const stagedEnd = STAGING_BYTES - room + (count - 1) * recordBytes;
    // The last page is read to its place. Those before it lie behind theirs, by a head for each one that follows, and are
    // moved up from the first one on: nothing is overwritten that is still to be moved.
    let from = stagedEnd - count * pageSize;
    readInFull(
      this.#file,
      this.#staging.subarray(from, stagedEnd),
      pagesOffset + first * pageSize,
      "The file became shorter while it was read",
      { section: RAM_SECTION.name, block },
    );
    for (let page = first; page < first + count; page++) {
      this.#putHead(page, RamFlag.PAGE);
      if (from !== this.#staged) this.#staging.copyWithin(this.#staged, from, from + pageSize);
      this.#staged += pageSize;
      from += pageSize;
    }
    this.normalPages += count;
    return count;
  }

  #putHead(page: number, flag: typeof RamFlag.PAGE | typeof RamFlag.ZERO): void {
    this.#staged = writeRamRecordHead(this.#view, this.#staged, page * this.#pageSize, flag, this.#newBlock);
    this.#newBlock = undefined;
  }

  #roomFor(dataBytes: number): boolean {
    return this.#staged + ramRecordHeadBytes(this.#newBlock) + dataBytes <= STAGING_BYTES;
  }
}
