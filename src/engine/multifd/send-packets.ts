import type { OverlappedReader, RandomAccessSource } from "../../channels/index.js";
import { FormatError } from "../../errors/index.js";
import type { PageBitmap } from "../../memory/index.js";
import { multifdPacketHeadBytes, multifdPagesPerPacket, RAM_SECTION } from "../../wire/index.js";
import { readPageBitmap } from "../mapped-ram/bitmaps.js";
import type { MappedRamBlock, MappedRamFile } from "../mapped-ram/open.js";

/** So many bytes that are not sent are read along, where that makes one read of two. */
const LONGEST_GAP_BYTES = 32 << 10;
/** A shorter read costs less than handing it to another thread does. */
const SHORTEST_OVERLAPPED_BYTES = 64 << 10;
/** Slower than this, a read waits for a disk, and others are better under way meanwhile. */
const CACHED_BYTES_PER_MS = 1_000_000;
/** A packet of more runs than this is read: a call for each would cost more. */
const MOST_RUNS_IN_FILE = 8;
/** So many reads later it is looked whether the file is in the page cache by now. */
const OVERLAPPED_READS = 64;

/** Room for one packet, which is used again and again: its head, and behind it its pages. */
export class PacketSlot {
  /** Head and pages, so that one write sends both. */
  readonly bytes: Uint8Array;
  readonly head: Uint8Array;
  /** Where each page lies in its block, in bytes. */
  readonly places: Float64Array;
  pageCount = 0;
  block = "";
  /** Where the pages are in the file, when they were not read: a socket takes them from there. */
  inFile: readonly { readonly position: number; readonly length: number }[] | undefined;
  readonly #pages: Uint8Array;
  readonly #pageSize: number;

  constructor(pageSize: number) {
    const headBytes = multifdPacketHeadBytes(pageSize);
    const room = multifdPagesPerPacket(pageSize);
    this.bytes = new Uint8Array(headBytes + room * pageSize);
    this.head = this.bytes.subarray(0, headBytes);
    this.#pages = this.bytes.subarray(headBytes);
    this.places = new Float64Array(room);
    this.#pageSize = pageSize;
  }

  /** The packet's pages, one after the other. */
  get pages(): Uint8Array {
    return this.#pages.subarray(0, this.pageCount * this.#pageSize);
  }

  /** Room of `count` pages from place `index` on. */
  room(index: number, count: number): Uint8Array {
    return this.#pages.subarray(index * this.#pageSize, (index + count) * this.#pageSize);
  }

  /** Moves pages to a lower place. */
  move(to: number, from: number, count: number): void {
    const pageSize = this.#pageSize;
    this.#pages.copyWithin(to * pageSize, from * pageSize, (from + count) * pageSize);
  }
}

/** Pages `first` and so on of a block, at place `at` of a slot. */
interface SlotRange {
  readonly first: number;
  readonly at: number;
  count: number;
}

/** Which pages of a block are to be sent yet. */
interface BlockPosition {
  readonly name: string;
  readonly pagesOffset: number;
  readonly bitmap: PageBitmap;
  /** The next page to look at. */
  page: number;
}

/**
 * Cuts the pages of a mapped-ram file into packets and reads them. Packets are asked for by several channels at a time: each
 * page is in exactly one.
 */
export class PacketReader {
  readonly #file: RandomAccessSource & OverlappedReader;
  readonly #pageSize: number;
  readonly #longestGap: number;
  readonly #leavesInFile: boolean;
  readonly #blocks: readonly MappedRamBlock[];
  #nextBlock = 0;
  #position: BlockPosition | undefined;
  /** How many reads to come are handed to other threads. */
  #overlappedReads = 0;

  /** @param leavesInFile Long runs are not read: the sockets take them from the file by themselves. */
  constructor(
    file: RandomAccessSource & OverlappedReader,
    { blocks, pageSize }: Pick<MappedRamFile, "blocks" | "pageSize">,
    leavesInFile: boolean,
  ) {
    this.#leavesInFile = leavesInFile;
    this.#file = file;
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#longestGap = Math.floor(LONGEST_GAP_BYTES / pageSize);
  }

  /**
   * Fills a slot with the pages of the next packet.
   *
   * @returns Whether there was one.
   * @throws FormatError `truncated` when the file became shorter; MachineError `io`.
   */
  async fill(slot: PacketSlot): Promise<boolean> {
    const position = this.#unfinishedBlock();
    if (position === undefined) return false;
    slot.block = position.name;
    const { runs, reads } = this.#claim(position, slot.places.length);
    slot.inFile = this.#placesInFile(position, runs);
    if (slot.inFile !== undefined) {
      this.#notePlaces(slot, runs);
      return true;
    }
    const overlapped: Promise<void>[] = [];
    for (const range of reads) {
      const room = slot.room(range.at, range.count);
      const offset = position.pagesOffset + range.first * this.#pageSize;
      if (room.length < SHORTEST_OVERLAPPED_BYTES || this.#overlappedReads === 0)
        this.#readNow(room, offset, slot);
      else overlapped.push(this.#readOverlapped(room, offset, slot));
    }
    await Promise.all(overlapped);
    this.#notePlaces(slot, runs);
    return true;
  }

  /** Notes how long the pages of a packet took that a socket took from the file. */
  tookFromFile(bytes: number, ms: number): void {
    if (ms * CACHED_BYTES_PER_MS > bytes) this.#overlappedReads = OVERLAPPED_READS;
  }

  /** Where runs lie in the file, where that is how they are to be sent: not small ones, nor while reads wait for a disk. */
  #placesInFile(position: BlockPosition, runs: readonly SlotRange[]): PacketSlot["inFile"] {
    if (!this.#leavesInFile || this.#overlappedReads > 0 || runs.length > MOST_RUNS_IN_FILE) return undefined;
    return runs.map(({ first, count }) => ({
      position: position.pagesOffset + first * this.#pageSize,
      length: count * this.#pageSize,
    }));
  }

  /** Writes down which pages a packet has, and closes the gaps that were read along. */
  #notePlaces(slot: PacketSlot, runs: readonly SlotRange[]): void {
    slot.pageCount = 0;
    for (const { first, at, count } of runs) {
      if (at !== slot.pageCount && slot.inFile === undefined) slot.move(slot.pageCount, at, count);
      for (let index = 0; index < count; index++) {
        slot.places[slot.pageCount + index] = (first + index) * this.#pageSize;
      }
      slot.pageCount += count;
    }
  }

  /** Takes the pages of one packet: runs of pages to send, and what is read for them, small gaps included. */
  #claim(position: BlockPosition, room: number): { runs: SlotRange[]; reads: SlotRange[] } {
    const { bitmap } = position;
    const runs: SlotRange[] = [];
    const reads: SlotRange[] = [];
    for (let used = 0; used < room;) {
      const first = bitmap.nextSet(position.page);
      if (first === bitmap.pageCount) {
        position.page = first;
        break;
      }
      const last = reads.at(-1);
      const gap = last === undefined ? 0 : first - (last.first + last.count);
      const joins = last !== undefined && gap <= this.#longestGap && used + gap < room;
      if (joins) used += gap;
      const count = Math.min(bitmap.nextClear(first) - first, room - used);
      if (joins) last.count += gap + count;
      else reads.push({ first, at: used, count });
      runs.push({ first, at: used, count });
      used += count;
      position.page = first + count;
    }
    return { runs, reads };
  }

  /** The block whose pages come next; it has at least one. */
  #unfinishedBlock(): BlockPosition | undefined {
    for (;;) {
      const position = this.#position;
      if (position !== undefined && position.bitmap.nextSet(position.page) < position.bitmap.pageCount) {
        return position;
      }
      const block = this.#blocks[this.#nextBlock++];
      if (block === undefined) return undefined;
      // A shared block that was left out is the destination's already.
      if (block.mapped === undefined) continue;
      const { name, mapped } = block;
      const bitmap = readPageBitmap(this.#file, block);
      this.#position = { name, pagesOffset: mapped.pagesOffset, bitmap, page: 0 };
    }
  }

  /**
   * Reads on this thread: from the page cache that takes two thirds of the processor time, for the bytes are in this
   * core's own cache when they are sent.
   */
  #readNow(room: Uint8Array, offset: number, slot: PacketSlot): void {
    const startMs = performance.now();
    checkCount(this.#file.readAt(room, offset), room, offset, slot);
    const isSlow = (performance.now() - startMs) * CACHED_BYTES_PER_MS > room.length;
    if (isSlow && room.length >= SHORTEST_OVERLAPPED_BYTES) this.#overlappedReads = OVERLAPPED_READS;
  }

  async #readOverlapped(room: Uint8Array, offset: number, slot: PacketSlot): Promise<void> {
    this.#overlappedReads -= 1;
    checkCount(await this.#file.startRead(room, offset), room, offset, slot);
  }
}

function checkCount(count: number, room: Uint8Array, offset: number, { block }: PacketSlot): void {
  if (count === room.length) return;
  throw new FormatError("truncated", "The file became shorter while it was read", {
    offset: offset + count,
    section: RAM_SECTION.name,
    block,
  });
}
