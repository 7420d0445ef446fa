import { deliver, type Delivery } from "../../channels/index.js";
import { assert, FormatError } from "../../errors/index.js";
import { MULTIFD_PACKET_SIZE, type RamBlockEntry, type RamRecordSink } from "../../wire/index.js";
import { ChannelReceiver } from "./channel-receiver.js";
import { createPacketDecompressor } from "./compression/create-packet-compression.js";
import type { MultifdChannel } from "./connections.js";
import { asPagePacketSink, type PagePacketSink } from "./page-packet-sink.js";
import { SlotPool } from "./slot-pool.js";
import type { MultifdSyncMode } from "./sync-mode.js";

/** Slots for the pages of packets: what each channel receives, and some more that are being written. */
const SLOTS = { least: 12, perChannel: 2 } as const;

/** What is received over the channels. */
export interface MultifdReceiverOptions {
  readonly blocks: readonly RamBlockEntry[];
  /** Target page size in bytes. */
  readonly pageSize: number;
  readonly sink: RamRecordSink;
  /** Called once, with the first failure: whoever reads the main channel has to stop. */
  readonly onFailure: (error: unknown) => void;
  /** Called with each packet. */
  readonly onPacket: () => void;
}

/**
 * Receives the pages of a migration over its channels, all at a time. A page may come again in a later round, over another
 * channel: the source syncs its channels in between, and {@link sync} is the other half of that.
 */
export class MultifdReceiver {
  readonly #channels: readonly {
    readonly receiver: ChannelReceiver;
    readonly delivery: Delivery;
  }[];
  readonly #sink: PagePacketSink;
  readonly #onFailure: (error: unknown) => void;
  readonly #work = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;
  #changed: (() => void) | undefined;
  #resuming = false;

  constructor(channels: readonly MultifdChannel[], options: MultifdReceiverOptions) {
    const { blocks, pageSize, sink, onFailure, onPacket } = options;
    this.#sink = asPagePacketSink(sink, pageSize);
    this.#onFailure = onFailure;
    const around = {
      pageSize,
      blocks: new Map(blocks.map(({ name, usedLength }, index) => [name, { index, usedLength }])),
      sink: this.#sink,
      slots: new SlotPool<Uint8Array>(
        Math.max(SLOTS.least, SLOTS.perChannel * channels.length),
        () => new Uint8Array(MULTIFD_PACKET_SIZE),
      ),
      createDecompressor: createPacketDecompressor,
      onWork: (work: Promise<void>): void => this.#watch(work),
      onRoom: (): void => this.#resumeSoon(),
      onChange: (): void => {
        onPacket();
        this.#changed?.();
      },
      onFailure: (error: unknown): void => this.#fail(error),
    };
    this.#channels = channels.map(({ id, source }) => {
      const receiver = new ChannelReceiver(id, around);
      const delivery = deliver(source, receiver);
      delivery.ended.then(
        () => receiver.end(),
        (error: unknown) => receiver.fail(error),
      );
      return { receiver, delivery };
    });
  }

  /** Bytes that came over the channels, without what they begin with. */
  get receivedBytes(): number {
    return this.#channels.reduce((sum, { receiver }) => sum + receiver.receivedBytes, 0);
  }

  /** What failed first. */
  get failure(): { readonly error: unknown } | undefined {
    return this.#failure;
  }

  /** Breaks everything off; who waits here gets this error. */
  abort(error: unknown): void {
    this.#fail(error);
  }

  /**
   * How the source syncs, by what its channels begin with: one that syncs with each section does so before the first page.
   * To be asked at the end of the first section.
   *
   * @throws The first failure.
   */
  async findSyncMode(): Promise<MultifdSyncMode> {
    const receivers = this.#receivers();
    const hasPages = (): boolean => receivers.some(({ first }) => first === "pages");
    const allSynced = (): boolean => receivers.every(({ first }) => first === "sync");
    await this.#until(() => hasPages() || allSynced());
    return hasPages() ? "round" : "section";
  }

  /**
   * Waits until all that came before the source's sync is in its place, on every channel, and lets the channels go on.
   *
   * @throws The first failure; FormatError `truncated` when a channel ends without having been synced.
   */
  async sync(): Promise<void> {
    const receivers = this.#receivers();
    await this.#until(() => receivers.every(({ isHeld, hasEnded }) => isHeld || hasEnded));
    const ended = receivers.find(({ isHeld }) => !isHeld);
    if (ended !== undefined) throw endedEarly(ended.id);
    await this.#settle();
    for (const { receiver, delivery } of this.#channels) {
      receiver.release();
      delivery.resume();
    }
  }

  /**
   * Waits until everything that came is in its place: to be called when the RAM section has ended on the main channel.
   *
   * @throws The first failure.
   */
  async finish(): Promise<void> {
    await this.#until(() => this.#receivers().every(({ isSettled }) => isSettled));
    await this.#settle();
  }

  /** Everything stops; the connections are closed by whoever opened them. */
  close(): void {
    for (const { receiver } of this.#channels) receiver.close();
  }

  async #settle(): Promise<void> {
    while (this.#work.size > 0) await Promise.all(this.#work);
    this.#throwFailure();
    this.#sink.settlePages();
  }

  async #until(condition: () => boolean): Promise<void> {
    assert(this.#changed === undefined, "one waits at a time");
    for (;;) {
      this.#throwFailure();
      if (condition()) return;
      await new Promise<void>((resolve) => (this.#changed = resolve));
      this.#changed = undefined;
    }
  }

  #watch(work: Promise<void>): void {
    const watched = work
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        this.#work.delete(watched);
      });
    this.#work.add(watched);
  }

  /** Not from within a channel's own call, and once for all slots that were given back meanwhile. */
  #resumeSoon(): void {
    if (this.#resuming) return;
    this.#resuming = true;
    queueMicrotask(() => {
      this.#resuming = false;
      for (const { delivery } of this.#channels) delivery.resume();
    });
  }

  #receivers(): readonly ChannelReceiver[] {
    return this.#channels.map(({ receiver }) => receiver);
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    this.close();
    this.#changed?.();
    this.#onFailure(error);
  }
}

function endedEarly(id: number): FormatError {
  return new FormatError("truncated", "A multifd channel ended before the migration did", {
    section: `ram, multifd channel ${id}`,
  });
}
