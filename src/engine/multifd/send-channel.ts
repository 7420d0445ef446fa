import type { ByteSink, FilePart, SocketChannel } from "../../channels/index.js";
import { assert, MachineError } from "../../errors/index.js";
import {
  encodeMultifdPacket,
  type MultifdCompression,
  type MultifdPacket,
  multifdPacketHeadBytes,
} from "../../wire/index.js";
import type { PacketCompressor } from "./compression/packet-compression.js";
import type { PacketSlot } from "./send-packets.js";

/** A sink that takes parts of a file by itself. */
type FileSink = Pick<SocketChannel, "canWriteFile" | "writeFile">;

/** Whether a sink is one of those, and can do it here. */
export function takesFromFile(sink: ByteSink): boolean {
  return "canWriteFile" in sink && (sink as ByteSink & FileSink).canWriteFile;
}

/** What the channels of one migration have in common. */
export interface ChannelSettings {
  readonly pageSize: number;
  readonly channelCount: number;
  readonly compression: MultifdCompression;
  /** The file, when the sockets take pages from it by themselves. */
  readonly file: FilePart["file"] | undefined;
  /** The next packet's number. */
  nextPacket(): number;
  /** Called with what a socket has taken from the file, and how long that took, in milliseconds. */
  onTaken(bytes: number, ms: number): void;
  /** Called with what has gone out. */
  onSent(bytes: number, pages: number): void;
}

/** The sending end of one extra connection. One call at a time. */
export class MultifdSendChannel {
  readonly #id: number;
  readonly #sink: ByteSink;
  readonly #settings: ChannelSettings;
  readonly #compressor: PacketCompressor | undefined;

  /** @param compressor Of this channel alone; the channel closes it. */
  constructor(id: number, sink: ByteSink, settings: ChannelSettings, compressor?: PacketCompressor) {
    this.#id = id;
    this.#sink = sink;
    this.#settings = settings;
    this.#compressor = compressor;
  }

  /** Sends a slot's pages as one packet; the slot is free again when they have gone. */
  async sendPages(slot: PacketSlot): Promise<void> {
    const { head, pages, places, pageCount, block } = slot;
    if (slot.inFile !== undefined) {
      await this.#sendFromFile(slot, slot.inFile);
      return;
    }
    const compressed = await this.#compressor?.compress(pages);
    const payloadBytes = (compressed ?? pages).length;
    this.#encode(head, { normalPages: pageCount, payloadBytes, block, sync: false }, places);
    if (compressed === undefined) await this.#write(slot.bytes.subarray(0, head.length + pages.length));
    // The second follows the first in order, and neither waits for the other's answer.
    else await Promise.all([this.#write(head), this.#write(compressed)]);
    this.#settings.onSent(head.length + payloadBytes, pageCount);
  }

  async #sendFromFile(slot: PacketSlot, parts: NonNullable<PacketSlot["inFile"]>): Promise<void> {
    const { head, places, pageCount, block } = slot;
    const { file } = this.#settings;
    assert(file !== undefined, "pages are left in a file that sockets can take them from");
    const payloadBytes = pageCount * this.#settings.pageSize;
    this.#encode(head, { normalPages: pageCount, payloadBytes, block, sync: false }, places);
    await this.#write(head);
    let fileMs = 0;
    for (const part of parts) {
      fileMs += await this.#orClosed((this.#sink as ByteSink & FileSink).writeFile({ file, ...part }));
    }
    this.#settings.onSent(head.length + payloadBytes, pageCount);
    this.#settings.onTaken(payloadBytes, fileMs);
  }

  /** Lets the destination wait here for its other channels. */
  async sync(): Promise<void> {
    const head = new Uint8Array(multifdPacketHeadBytes(this.#settings.pageSize));
    this.#encode(head, { normalPages: 0, payloadBytes: 0, block: "", sync: true }, new Float64Array());
    await this.#write(head);
    this.#settings.onSent(head.length, 0);
  }

  /** Says that nothing more comes. */
  async end(): Promise<void> {
    this.#compressor?.close();
    await this.#sink.end();
  }

  /** Closes at once; what is being written fails. */
  close(): void {
    this.#compressor?.close();
    void this.#sink.close().catch(() => undefined);
  }

  #encode(
    head: Uint8Array,
    fields: Pick<MultifdPacket, "normalPages" | "payloadBytes" | "block" | "sync">,
    places: Float64Array,
  ): void {
    const { compression, pageSize } = this.#settings;
    const packetNumber = this.#settings.nextPacket();
    // Zero pages travel as records of the main channel: QEMU before 9.0 knows them nowhere else.
    encodeMultifdPacket(head, { ...fields, compression, packetNumber, zeroPages: 0 }, places, pageSize);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    await this.#orClosed(this.#sink.write(bytes));
  }

  async #orClosed<T>(writing: Promise<T>): Promise<T> {
    try {
      return await writing;
    } catch (error) {
      if (!(error instanceof MachineError) || error.code !== "connection-closed") throw error;
      const message = `The destination closed multifd channel ${this.#id + 1} of ${this.#settings.channelCount}`;
      throw new MachineError(error.code, message, { ...error.data, hint: CLOSED_HINT }, error);
    }
  }
}

const CLOSED_HINT =
  "its own error says why; its multifd-channels, multifd-compression and UUID must be those of this side";
