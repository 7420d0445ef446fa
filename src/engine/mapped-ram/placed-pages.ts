import { assert, FormatError, MachineError } from "../../errors/index.js";
import { isZero, PageBitmap } from "../../memory/index.js";
import { applyXbzrle, RAM_SECTION } from "../../wire/index.js";
import { inflatePage } from "../compressed-page.js";
import type { PagePacketSink } from "../multifd/page-packet-sink.js";
import type { PositionedFile } from "./positioned-file.js";
import { WriteCombiner } from "./write-combiner.js";

/**
 * Runs of pages below this are written at once and one after the other: handing one to another thread costs more than
 * copying it into the page cache does.
 */
const LEAST_OVERLAPPED_BYTES = 64 << 10;

/** How pages came to be in a file, counted as QEMU's query-migrate does: each arrival counts. */
export interface PageCounts {
  /** Pages with content, re-dirtied ones each time. */
  readonly normal: number;
  /** Zero pages (`duplicate` in QEMU). */
  readonly zero: number;
}

/** Where a block's pages go. */
export interface PlacedBlock {
  readonly name: string;
  /** Absent for a block that has no pages: that one comes is an error. */
  readonly place?: {
    readonly file: PositionedFile;
    /** Of the block's first page in the file. */
    readonly position: number;
    readonly pageCount: number;
  };
}

interface BlockState extends NonNullable<PlacedBlock["place"]> {
  /** The page has content. */
  readonly present: PageBitmap;
  /** Pages whose place was ever written; it may hold bytes of a page that is zero by now. */
  readonly written: PageBitmap;
}

/**
 * Puts each page at its place in a file, however often it comes: the last one stays. Memory is two bits a page.
 */
export class PlacedPages implements PagePacketSink {
  readonly #blocks: readonly PlacedBlock[];
  readonly #states: readonly (BlockState | undefined)[];
  readonly #pageSize: number;
  readonly #combiner = new WriteCombiner();
  #normal = 0;
  #zero = 0;
  #sealed = false;
  /** Calls of {@link placePages} and {@link pagePacket} that run. */
  #placing = 0;

  constructor(blocks: readonly PlacedBlock[], pageSize: number) {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#states = blocks.map(({ place }) =>
      place === undefined
        ? undefined
        : { ...place, present: new PageBitmap(place.pageCount), written: new PageBitmap(place.pageCount) },
    );
  }

  get counts(): PageCounts {
    return { normal: this.#normal, zero: this.#zero };
  }

  page(block: number, address: number, bytes: Uint8Array, at: number): void {
    const pageSize = this.#pageSize;
    if (isZero(bytes, at, pageSize)) {
      this.zeroPage(block, address);
      return;
    }
    const { file, position, present, written } = this.#state(block);
    if (this.#sealed) throw lateWrite(this.#blocks[block]?.name ?? "", address);
    const index = address / pageSize;
    present.set(index);
    written.set(index);
    this.#normal += 1;
    this.#combiner.put(file, position + address, bytes, at, pageSize);
  }

  /** Takes pages that follow each other, as {@link page} does each one, and writes them without gathering them first. */
  pages(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    this.#eachRun(block, address, bytes, at, length, (file, position, run) =>
      file.writeAt(run, 0, run.length, position),
    );
  }

  /**
   * Takes pages that follow each other, as {@link pages} does, and writes them beside this thread, one run after the
   * other. What is known of the pages changes at once. Until the promise has settled nothing else may come for the same pages, since nothing says which
   * of two writes ends last, and neither {@link finish} may be called.
   *
   * @param bytes Must stay as they are until the promise has settled; then they may be reused.
   */
  async placePages(
    block: number,
    address: number,
    bytes: Uint8Array,
    at: number,
    length: number,
  ): Promise<void> {
    const writes: (() => Promise<void>)[] = [];
    this.#eachRun(block, address, bytes, at, length, (file, position, run) => {
      const start = writeIfShort(file, position, run);
      if (start !== undefined) writes.push(start);
    });
    this.#placing += 1;
    try {
      // One after the other: how many are in flight is for the caller to say.
      for (const write of writes) await write();
    } finally {
      this.#placing -= 1;
    }
  }

  /** Notes zero pages, and hands each run of the others on to be written. */
  #eachRun(
    block: number,
    address: number,
    bytes: Uint8Array,
    at: number,
    length: number,
    write: (file: PositionedFile, position: number, run: Uint8Array) => void,
  ): void {
    const end = at + length;
    let start = at;
    for (let next = at; next < end; next += this.#pageSize) {
      if (!isZero(bytes, next, this.#pageSize)) continue;
      this.#writeRun(block, address + start - at, bytes.subarray(start, next), write);
      this.zeroPage(block, address + next - at);
      start = next + this.#pageSize;
    }
    this.#writeRun(block, address + start - at, bytes.subarray(start, end), write);
  }

  #writeRun(
    block: number,
    address: number,
    run: Uint8Array,
    write: (file: PositionedFile, position: number, run: Uint8Array) => void,
  ): void {
    if (run.length === 0) return;
    const { file, position, present, written } = this.#state(block);
    if (this.#sealed) throw lateWrite(this.#blocks[block]?.name ?? "", address);
    const first = address / this.#pageSize;
    const count = run.length / this.#pageSize;
    present.setRange(first, first + count);
    written.setRange(first, first + count);
    this.#normal += count;
    // What came before may lie in the same place.
    this.#combiner.flush();
    write(file, position + address, run);
  }

  pagePacket(
    block: number,
    places: Float64Array,
    count: number,
    bytes: Uint8Array,
  ): Promise<void> | undefined {
    const pageSize = this.#pageSize;
    const writes: Promise<void>[] = [];
    const order = ascending(places, count);
    for (let first = 0; first < count;) {
      const from = order[first] ?? 0;
      const address = places[from] ?? 0;
      let next = first + 1;
      while (next < count && order[next] === from + next - first) {
        if (places[from + next - first] !== address + (next - first) * pageSize) break;
        next += 1;
      }
      const length = (next - first) * pageSize;
      if (length >= LEAST_OVERLAPPED_BYTES) {
        this.#eachRun(block, address, bytes, from * pageSize, length, (file, position, run) => {
          const start = writeIfShort(file, position, run);
          if (start !== undefined) writes.push(start());
        });
      } else {
        // Neighbours in the file that are none in the packet: gathered.
        for (let at = 0; at < length; at += pageSize)
          this.page(block, address + at, bytes, from * pageSize + at);
      }
      first = next;
    }
    if (writes.length === 0) return undefined;
    this.#placing += 1;
    return Promise.all(writes)
      .then(() => undefined)
      .finally(() => (this.#placing -= 1));
  }

  settlePages(): void {
    this.#combiner.flush();
  }

  zeroPage(block: number, address: number): void {
    const { present } = this.#state(block);
    if (this.#sealed) throw lateWrite(this.#blocks[block]?.name ?? "", address);
    present.clear(address / this.#pageSize);
    this.#zero += 1;
  }

  xbzrlePage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    const page = this.#readBack(block, address);
    applyXbzrle(page, bytes.subarray(at, at + length));
    this.page(block, address, page, 0);
  }

  compressedPage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    const page = inflatePage(
      bytes.subarray(at, at + length),
      this.#pageSize,
      this.#blocks[block]?.name ?? "",
    );
    this.page(block, address, page, 0);
  }

  /**
   * Writes what was gathered, and clears the places that hold bytes of pages that became zero. The bitmaps hold from here
   * on: a page that comes later fails the migration.
   */
  finish(): void {
    assert(this.#placing === 0, "pages are still being written when their bitmaps are closed");
    this.#combiner.flush();
    this.#sealed = true;
    for (const state of this.#states) {
      if (state === undefined) continue;
      const { file, position, present, written } = state;
      for (const { start, end } of written.without(present).runs()) {
        file.zeroAt(position + start * this.#pageSize, (end - start) * this.#pageSize);
      }
    }
  }

  /** Which pages of a block have content; undefined for a block without a place. */
  present(block: number): PageBitmap | undefined {
    return this.#states[block]?.present;
  }

  /** What the file holds of a page now. */
  #readBack(block: number, address: number): Uint8Array {
    const { file, position, present } = this.#state(block);
    const page = new Uint8Array(this.#pageSize);
    if (present.has(address / this.#pageSize)) {
      this.#combiner.flush();
      file.readAt(page, position + address);
    }
    return page;
  }

  #state(block: number): BlockState {
    const state = this.#states[block];
    if (state !== undefined) return state;
    const name = this.#blocks[block]?.name;
    assert(name !== undefined, `RAM block ${block} of ${this.#blocks.length}`);
    throw new FormatError("inconsistent", "A RAM block that was left out has pages all the same", {
      section: RAM_SECTION.name,
      block: name,
    });
  }
}

/** The order in which places ascend. QEMU puts a packet's pages out of order when it sorts the zero pages out. */
function ascending(places: Float64Array, count: number): Uint32Array {
  const order = new Uint32Array(count).map((_, index) => index);
  for (let index = 1; index < count; index++) {
    if ((places[index] ?? 0) < (places[index - 1] ?? 0)) {
      return order.sort((a, b) => (places[a] ?? 0) - (places[b] ?? 0));
    }
  }
  return order;
}

/** Writes a short run at once, and of a long one returns what starts to write it beside this thread. */
function writeIfShort(
  file: PositionedFile,
  position: number,
  run: Uint8Array,
): (() => Promise<void>) | undefined {
  const start = run.length < LEAST_OVERLAPPED_BYTES ? undefined : file.startWrite?.bind(file);
  if (start !== undefined) return () => start(run, position);
  file.writeAt(run, 0, run.length, position);
  return undefined;
}

function lateWrite(block: string, address: number): MachineError {
  return new MachineError("migration-failed", "A page was written after its bitmap had been closed", {
    block,
    actual: `page at 0x${address.toString(16)}`,
  });
}
