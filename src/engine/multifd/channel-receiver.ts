import type { ByteReceiver } from "../../channels/index.js";
import { assert, FormatError } from "../../errors/index.js";
import {
  decodeMultifdPacket,
  decodeMultifdPlaces,
  MULTIFD_PACKET_SIZE,
  type MultifdCompression,
  type MultifdPacket,
  multifdPacketHeadBytes,
  multifdPagesPerPacket,
} from "../../wire/index.js";
import type { PacketDecompressor } from "./compression/packet-compression.js";
import type { PagePacketSink } from "./page-packet-sink.js";
import type { SlotPool } from "./slot-pool.js";

/** What all channels of a migration have in common. */
export interface ChannelSurroundings {
  readonly pageSize: number;
  /** Places in the block list, by name. */
  readonly blocks: ReadonlyMap<string, { readonly index: number; readonly usedLength: number }>;
  readonly sink: PagePacketSink;
  /** Room for the pages of a packet, of `MULTIFD_PACKET_SIZE` bytes. */
  readonly slots: SlotPool<Uint8Array>;
  readonly createDecompressor: (compression: Exclude<MultifdCompression, "none">) => PacketDecompressor;
  /** Pages are on their way; resolves when they are in their places. */
  onWork(work: Promise<void>): void;
  /** There is a slot again. */
  onRoom(): void;
  /** Something has changed that others may wait for. */
  onChange(): void;
  onFailure(error: unknown): void;
}

/**
 * Takes apart what comes over one channel: packets with pages, and those that make it wait for the others. Bytes go
 * straight to where they are needed: heads to one small buffer, pages to a slot that goes on to be written as it is.
 */
export class ChannelReceiver implements ByteReceiver {
  readonly id: number;
  readonly #around: ChannelSurroundings;
  readonly #head: Uint8Array;
  readonly #places: Float64Array;
  #state: "head" | "payload" | "held" | "failed" = "head";
  #at = 0;
  #baseOffset = 0;
  #packet: MultifdPacket | undefined;
  #slot: Uint8Array | undefined;
  #decompressor: { readonly method: MultifdCompression; readonly unpack: PacketDecompressor } | undefined;
  /** Packets are unpacked one after the other: each goes on where the one before ended. */
  #unpacking: Promise<void> = Promise.resolve();
  #unpacked: Uint8Array | undefined;
  #first: "pages" | "sync" | undefined;
  #unsynced = false;
  #ended = false;

  constructor(id: number, around: ChannelSurroundings) {
    this.id = id;
    this.#around = around;
    this.#head = new Uint8Array(multifdPacketHeadBytes(around.pageSize));
    this.#places = new Float64Array(multifdPagesPerPacket(around.pageSize));
  }

  get receivedBytes(): number {
    return this.#baseOffset + this.#at;
  }

  /** What the first packet was; undefined before it came. */
  get first(): "pages" | "sync" | undefined {
    return this.#first;
  }

  /** The source has synced this channel, and it waits for {@link release}. */
  get isHeld(): boolean {
    return this.#state === "held";
  }

  /** The other side has closed it, between two packets. */
  get hasEnded(): boolean {
    return this.#ended;
  }

  /** Nothing is under way: no part of a packet, and no pages that the source has not synced. */
  get isSettled(): boolean {
    return this.isHeld || (this.#state === "head" && this.#at === 0 && (!this.#unsynced || this.#ended));
  }

  /** All channels have been synced: this one goes on. */
  release(): void {
    assert(this.isHeld, "only a channel that waits is released");
    this.#state = "head";
  }

  room(): Uint8Array | undefined {
    switch (this.#state) {
      case "head":
        return this.#head.subarray(this.#at);
      case "payload": {
        const length = this.#packet?.payloadBytes ?? 0;
        this.#slot ??= this.#takeSlot(length);
        return this.#slot?.subarray(this.#at, length);
      }
      default:
        return undefined;
    }
  }

  received(count: number): void {
    try {
      this.#at += count;
      if (this.#state === "head" && this.#at === this.#head.length) this.#takeHead();
      else if (this.#state === "payload" && this.#at === this.#packet?.payloadBytes) this.#takePayload();
    } catch (error) {
      this.fail(error);
    }
  }

  /** The channel has nothing more. */
  end(): void {
    if (this.#state === "payload" || (this.#state === "head" && this.#at > 0)) {
      this.fail(
        new FormatError("truncated", "A multifd channel ends in the middle of a packet", this.#position()),
      );
      return;
    }
    this.#ended = true;
    this.#around.onChange();
  }

  fail(error: unknown): void {
    this.#state = "failed";
    this.#around.onFailure(error);
  }

  close(): void {
    this.#state = "failed";
    this.#decompressor?.unpack.close();
  }

  /** Compressed pages may be longer than pages are. */
  #takeSlot(length: number): Uint8Array | undefined {
    return length > MULTIFD_PACKET_SIZE ? new Uint8Array(length) : this.#around.slots.takeNow();
  }

  #takeHead(): void {
    const { pageSize, sink } = this.#around;
    const packet = decodeMultifdPacket(this.#head, pageSize, this.#baseOffset);
    const { normalPages, zeroPages } = packet;
    this.#first ??= normalPages + zeroPages > 0 ? "pages" : "sync";
    if (normalPages + zeroPages > 0) {
      const { index, usedLength } = this.#block(packet);
      decodeMultifdPlaces(this.#head, packet, { usedLength, pageSize }, this.#places);
      for (let page = normalPages; page < normalPages + zeroPages; page++) {
        sink.zeroPage(index, this.#places[page] ?? 0);
      }
      this.#unsynced = true;
    }
    this.#packet = packet;
    this.#goOn("payload");
    if (packet.payloadBytes === 0) this.#endPacket(packet);
    this.#around.onChange();
  }

  #takePayload(): void {
    const packet = this.#packet;
    const slot = this.#slot;
    assert(packet !== undefined && slot !== undefined, "a packet's pages behind its head");
    this.#slot = undefined;
    const { index } = this.#block(packet);
    const { compression, normalPages, payloadBytes } = packet;
    const work =
      compression === "none"
        ? this.#around.sink.pagePacket(index, this.#places, normalPages, slot)
        : this.#unpack(packet, compression, slot.subarray(0, payloadBytes));
    if (work === undefined) this.#giveBack(slot);
    else this.#around.onWork(work.finally(() => this.#giveBack(slot)));
    this.#endPacket(packet);
    this.#around.onChange();
  }

  #endPacket({ sync }: MultifdPacket): void {
    this.#goOn(sync ? "held" : "head");
    if (sync) this.#unsynced = false;
  }

  #goOn(state: "head" | "payload" | "held"): void {
    this.#baseOffset += this.#at;
    this.#at = 0;
    this.#state = state;
  }

  #giveBack(slot: Uint8Array): void {
    if (slot.length !== MULTIFD_PACKET_SIZE) return;
    this.#around.slots.give(slot);
    this.#around.onRoom();
  }

  #unpack(
    { block, normalPages }: MultifdPacket,
    method: Exclude<MultifdCompression, "none">,
    data: Uint8Array,
  ): Promise<void> {
    this.#decompressor ??= { method, unpack: this.#around.createDecompressor(method) };
    const { unpack } = this.#decompressor;
    if (this.#decompressor.method !== method) {
      throw new FormatError("inconsistent", "A multifd channel changes the way in which it is compressed", {
        ...this.#position(),
        expected: this.#decompressor.method,
        actual: method,
      });
    }
    // The next head overwrites them before this packet is unpacked.
    const places = this.#places.slice(0, normalPages);
    const { index } = this.#block({ block });
    this.#unpacking = this.#unpacking.then(async () => {
      this.#unpacked ??= new Uint8Array(MULTIFD_PACKET_SIZE);
      const pages = this.#unpacked.subarray(0, normalPages * this.#around.pageSize);
      await unpack.decompress(data, pages);
      await this.#around.sink.pagePacket(index, places, normalPages, pages);
    });
    return this.#unpacking;
  }

  #block({ block }: Pick<MultifdPacket, "block">): { readonly index: number; readonly usedLength: number } {
    const found = this.#around.blocks.get(block);
    if (found !== undefined) return found;
    throw new FormatError("malformed", "A multifd packet names a block that is not in the block list", {
      ...this.#position(),
      block,
    });
  }

  #position(): { readonly offset: number; readonly section: string } {
    return { offset: this.#baseOffset, section: `ram, multifd channel ${this.id}` };
  }
}
