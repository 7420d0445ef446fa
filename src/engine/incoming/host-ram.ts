import { assert, FormatError } from "../../errors/index.js";
import { isZero, PageBitmap } from "../../memory/index.js";
import { applyXbzrle, RAM_SECTION, type RamRecordSink } from "../../wire/index.js";
import { inflatePage } from "../compressed-page.js";
import type { MigrationHost } from "../host.js";
import { clearPages } from "../ram-block.js";

interface ReceivingBlock {
  readonly name: string;
  /** Place in the host's list. */
  readonly index: number;
  /** Absent for a block whose pages do not travel: that one comes is an error. */
  readonly received: PageBitmap | undefined;
}

/** Puts the pages of a stream into the memory of a host. Views of that memory are asked for anew after each wait. */
export class HostRam implements RamRecordSink {
  readonly #host: MigrationHost;
  readonly #pageSize: number;
  readonly #blocks: readonly ReceivingBlock[];
  /** Segments of each block, good until the guest or the event loop had a turn. */
  #segments: readonly (readonly Uint8Array[])[] = [];
  #segment: Uint8Array = new Uint8Array();
  #offset = 0;
  #normal = 0;
  #zero = 0;

  /** @param blocks In the stream's order. */
  constructor(
    host: MigrationHost,
    blocks: readonly {
      readonly name: string;
      readonly usedLength: number;
      readonly index: number;
      readonly travels: boolean;
    }[],
  ) {
    this.#host = host;
    this.#pageSize = host.pageSize;
    this.#blocks = blocks.map(({ name, usedLength, index, travels }) => ({
      name,
      index,
      received: travels ? new PageBitmap(usedLength / host.pageSize) : undefined,
    }));
  }

  get counts(): { readonly normal: number; readonly zero: number } {
    return { normal: this.#normal, zero: this.#zero };
  }

  /** Which pages of a block have come, by its place in the stream's list; undefined where none travel. */
  received(block: number): PageBitmap | undefined {
    return this.#blocks[block]?.received;
  }

  /**
   * Forgets pages that came: they count as not received.
   *
   * @param block Place in the stream's list; its pages travel.
   */
  discard(block: number, firstPage: number, endPage: number): void {
    this.#receiving(block).received?.clearRange(firstPage, endPage);
  }

  /** Asks for the memory's views anew: it may have moved. */
  refresh(): void {
    this.#segments = this.#host.ramBlocks().map(({ segments }) => segments);
  }

  page(block: number, address: number, bytes: Uint8Array, at: number): void {
    this.#normal += 1;
    this.#seek(block, address);
    this.#segment.set(bytes.subarray(at, at + this.#pageSize), this.#offset);
  }

  zeroPage(block: number, address: number): void {
    this.#zero += 1;
    this.#seek(block, address);
    const end = this.#offset + this.#pageSize;
    // Memory that was never touched stays so.
    if (!isZero(this.#segment, this.#offset, this.#pageSize)) this.#segment.fill(0, this.#offset, end);
  }

  xbzrlePage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    const { received } = this.#receiving(block);
    if (received?.has(address / this.#pageSize) !== true) {
      throw new FormatError("inconsistent", "A change came for a page that had not come before", {
        section: RAM_SECTION.name,
        block: this.#blocks[block]?.name ?? "",
        actual: `page at 0x${address.toString(16)}`,
      });
    }
    this.#normal += 1;
    this.#seek(block, address);
    const page = this.#segment.subarray(this.#offset, this.#offset + this.#pageSize);
    applyXbzrle(page, bytes.subarray(at, at + length));
  }

  compressedPage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    const { name } = this.#receiving(block);
    this.page(block, address, inflatePage(bytes.subarray(at, at + length), this.#pageSize, name), 0);
  }

  /** What never came is zero, whatever the memory held before. */
  clearUnreceived(): void {
    this.refresh();
    for (const { index, received } of this.#blocks) {
      if (received === undefined) continue;
      clearPages(this.#segments[index] ?? [], received.clearRuns(), this.#pageSize);
    }
  }

  /** Finds where a page goes: {@link #segment} and {@link #offset}. */
  #seek(block: number, address: number): void {
    const { index, received } = this.#receiving(block);
    let offset = address;
    for (const segment of this.#segments[index] ?? []) {
      if (offset < segment.length) {
        this.#segment = segment;
        this.#offset = offset;
        received?.set(address / this.#pageSize);
        return;
      }
      offset -= segment.length;
    }
    assert(false, "a page of the host's memory");
  }

  #receiving(block: number): ReceivingBlock {
    const state = this.#blocks[block];
    assert(state !== undefined, `RAM block ${block} of ${this.#blocks.length}`);
    if (state.received !== undefined) return state;
    throw new FormatError("inconsistent", "A RAM block that is shared has pages all the same", {
      section: RAM_SECTION.name,
      block: state.name,
    });
  }
}
