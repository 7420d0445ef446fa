import type { ByteSink, FilePart, OverlappedReader, RandomAccessSource } from "../../channels/index.js";
import { assert } from "../../errors/index.js";
import type { MappedRamFile } from "../mapped-ram/open.js";
import { createPacketCompressor } from "./compression/create-packet-compression.js";
import type { PacketCompression } from "./compression/packet-compression.js";
import { type ChannelSettings, MultifdSendChannel, takesFromFile } from "./send-channel.js";
import { PacketReader, PacketSlot } from "./send-packets.js";
import { SlotPool } from "./slot-pool.js";
import type { MultifdSyncMode } from "./sync-mode.js";

/** How pages travel over channels of their own. */
export interface MultifdSendOptions {
  /**
   * The extra connections, 1 to 255 of them; the destination must have as many. Each has begun with `sendMultifdHello`, with
   * its place here as its number.
   */
  readonly channels: readonly ByteSink[];
  /** The file whose pages are sent. */
  readonly file: RandomAccessSource & OverlappedReader;
  readonly syncMode: MultifdSyncMode;
  /** Default none. */
  readonly compression?: PacketCompression;
  /** As QEMU's `multifd-zlib-level` or `multifd-zstd-level`. */
  readonly compressionLevel?: number;
}

/** How many packets are in memory at a time: two for each channel, of which one is read while the other is sent. */
const MOST_SLOTS = 64;

/**
 * Sends the pages of a mapped-ram file over channels of their own. Whichever channel is free takes the next packet, and
 * while one is sent its successor is read, so that all this one thread does is to pass buffers on.
 */
export class MultifdSender {
  readonly syncMode: MultifdSyncMode;
  readonly #channels: readonly MultifdSendChannel[];
  readonly #packets: PacketReader;
  readonly #slots: SlotPool<PacketSlot>;

  /**
   * @param onSent Called with what has gone out.
   * @throws UsageError for a level of compression that does not exist; MachineError `not-capable` where there is no zstd.
   */
  constructor(
    options: MultifdSendOptions,
    skeleton: Pick<MappedRamFile, "blocks" | "pageSize">,
    onSent: ChannelSettings["onSent"],
  ) {
    const { channels, file, compression, compressionLevel } = options;
    assert(channels.length >= 1 && channels.length <= 255, "1 to 255 channels");
    const { pageSize } = skeleton;
    let packetNumber = 0;
    const takenFile =
      compression === undefined && isCachedFile(file) && channels.every(takesFromFile) ? file : undefined;
    const settings: ChannelSettings = {
      pageSize,
      channelCount: channels.length,
      compression: compression ?? "none",
      file: takenFile,
      nextPacket: () => packetNumber++,
      onTaken: (bytes, ms) => this.#packets.tookFromFile(bytes, ms),
      onSent,
    };
    this.syncMode = options.syncMode;
    this.#channels = channels.map((sink, id) => {
      const compressor =
        compression === undefined ? undefined : createPacketCompressor(compression, compressionLevel);
      return new MultifdSendChannel(id, sink, settings, compressor);
    });
    this.#packets = new PacketReader(file, skeleton, takenFile !== undefined);
    this.#slots = new SlotPool(Math.min(2 * channels.length, MOST_SLOTS), () => new PacketSlot(pageSize));
  }

  /** Sends all pages with content, each once. */
  async sendPages(): Promise<void> {
    await this.#onEach((channel) => this.#feed(channel));
  }

  /** Lets the channels wait for each other. */
  async sync(): Promise<void> {
    await this.#onEach((channel) => channel.sync());
  }

  /** Says that nothing more comes. */
  async end(): Promise<void> {
    await this.#onEach((channel) => channel.end());
  }

  /** Closes at once; what is being sent fails. */
  close(): void {
    for (const channel of this.#channels) channel.close();
  }

  async #onEach(action: (channel: MultifdSendChannel) => Promise<void>): Promise<void> {
    await Promise.all(this.#channels.map(action));
  }

  async #feed(channel: MultifdSendChannel): Promise<void> {
    let next = this.#nextPacket();
    for (let slot = await next; slot !== undefined; slot = await next) {
      next = this.#nextPacket();
      // When this packet cannot be sent, nobody asks for the next one.
      next.catch(() => undefined);
      await channel.sendPages(slot);
      this.#slots.give(slot);
    }
  }

  async #nextPacket(): Promise<PacketSlot | undefined> {
    const slot = await this.#slots.take();
    if (await this.#packets.fill(slot)) return slot;
    this.#slots.give(slot);
    return undefined;
  }
}

/** Whether a file has a descriptor whose bytes are in the page cache, or come there. */
function isCachedFile<T extends RandomAccessSource>(file: T): file is T & FilePart["file"] {
  return "fd" in file && typeof file.fd === "number" && !("isDirect" in file && file.isDirect === true);
}
