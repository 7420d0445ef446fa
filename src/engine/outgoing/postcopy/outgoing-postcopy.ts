import type { ByteSink } from "../../../channels/index.js";
import { asError } from "../../../errors/as-error.js";
import { assert, CancelledError, FormatError, MachineError, UsageError } from "../../../errors/index.js";
import type { PageBitmap } from "../../../memory/index.js";
import type { MigrationParameters } from "../../../qapi/index.js";
import { type PageRequest, pingCommand } from "../../../wire/index.js";
import { type Clock, systemClock } from "../../clock.js";
import type { MigrationHost } from "../../host.js";
import type { PageCounts } from "../../mapped-ram/placed-pages.js";
import type { MigrationState } from "../../migration-states.js";
import { PostcopyPing } from "../../postcopy/pings.js";
import { RAM_SECTION_ID } from "../device-sections.js";
import type { GuestHold } from "../guest-hold.js";
import type { OutgoingTarget } from "../outgoing-target.js";
import type { PostcopyPreparation } from "../stream-target.js";
import { type PostcopyChannels, PostcopyConnection, type PreemptChannel } from "./connection.js";
import { type DiscardedBlock, discardCommands, missByHostPages } from "./discards.js";
import { encodedCommand } from "./encoded-command.js";
import { HostPageSource } from "./host-page-source.js";
import { adviceFor } from "./page-source.js";
import { packDevices, PING_PACKAGED_LOADED } from "./package.js";
import { PageServer } from "./page-server.js";
import { recoverPostcopy } from "./recover.js";

/** A destination's main connection, and the way to another one. */
export interface PostcopyWay extends PostcopyChannels {
  /** Connects once more to the same place: with `postcopy-preempt`. */
  readonly openPreempt?: (signal: AbortSignal) => Promise<ByteSink>;
}

/** Options of {@link OutgoingPostcopy}. */
export interface OutgoingPostcopyOptions {
  /** Asked anew each time: they may change meanwhile. */
  readonly parameters: () => Pick<MigrationParameters, "max-postcopy-bandwidth">;
  readonly clock?: Clock;
}

/** Discards that are written at once. */
const COMMANDS_AT_ONCE = 256;

/**
 * What an outgoing migration has beside precopy when it may go over to postcopy: the return path from the beginning, and
 * from the moment when the guest is handed over the pages that are asked for, over one connection after the other.
 *
 * The guest is the destination's as soon as the last byte of the package may have left: whatever happens then, it does not
 * go on here, unless the destination itself says that it never ran it.
 */
export class OutgoingPostcopy {
  readonly preparation: PostcopyPreparation;
  /** Called after every piece of pages that went out, with the guest handed over. */
  onSent: (() => void) | undefined;
  readonly #source: HostPageSource;
  readonly #options: OutgoingPostcopyOptions;
  readonly #clock: Clock;
  readonly #over = new AbortController();
  #guest: GuestHold | undefined;
  #way: PostcopyWay;
  #connection: PostcopyConnection;
  #server: PageServer | undefined;
  #resume: ((way: PostcopyWay) => void) | undefined;
  #error: Error | undefined;
  #isRefused = false;

  /** Begins to listen to what the destination says. */
  constructor(host: MigrationHost, way: PostcopyWay, options: OutgoingPostcopyOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#source = new HostPageSource(host, () => this.#checkGuest());
    this.#way = way;
    this.#connection = this.#connect(way);
    this.preparation = {
      advice: adviceFor(this.#source),
      shut: () => this.#connection.shut(),
    };
  }

  /** Why the migration is paused; undefined when it is not, or not any more. */
  get error(): Error | undefined {
    return this.#error;
  }

  /** Whether the destination said that it never ran the guest, and never will: it may go on here. */
  get isRefused(): boolean {
    return this.#isRefused;
  }

  /** Bytes of pages that the destination still lacks; undefined before the guest was handed over. */
  get remainingBytes(): number | undefined {
    return this.#server?.sent.pendingBytes;
  }

  /** What went out since the guest was handed over. */
  get sentBytes(): number {
    return this.#server?.sentBytes ?? 0;
  }

  /** Target pages that went out since then. */
  get sentPages(): PageCounts {
    return this.#server?.sentPages ?? { normal: 0, zero: 0 };
  }

  /** Requests of the destination. */
  get requests(): number {
    return this.#server?.statistics.requests ?? 0;
  }

  /**
   * Opens the channel for pages that are asked for, where it is wanted: while the guest still runs here.
   *
   * @throws MachineError when the destination does not take another connection.
   */
  async prepare(): Promise<void> {
    const preempt = this.#preemptChannel();
    if (preempt === undefined) return;
    await this.#connection.openPreempt(preempt, this.#connection.pong(PostcopyPing.RETURN_PATH));
  }

  /**
   * Hands the guest over. Up to its last byte the destination cannot take the package, and an error leaves the guest here.
   *
   * @param missing Target pages of each block that the destination does not have as they are: made whole host pages.
   * @param deviceSections Their sections alone.
   * @param onLeaving Called right before the last byte is written: from then on nothing is thrown, and a broken connection
   *   shows in {@link serve}.
   */
  async handOver(
    target: OutgoingTarget,
    missing: readonly PageBitmap[],
    deviceSections: Uint8Array,
    guest: GuestHold,
    onLeaving: () => void,
  ): Promise<void> {
    const { blocks, targetPageSize } = this.#source;
    const discarded: DiscardedBlock[] = blocks.map(({ name, hostPageSize }, index) => {
      const pages = missing[index];
      assert(pages !== undefined, `no pages of ${name}`);
      return { name, missing: pages, hostPagePages: hostPageSize / targetPageSize };
    });
    missByHostPages(discarded);
    await this.#discard(target, discarded);
    this.#guest = guest;
    this.#server = this.#serverFor(discarded);
    const [head, nested] = packDevices(deviceSections);
    target.verbatim(encodedCommand(pingCommand(PostcopyPing.BEFORE_PACKAGE)), 0);
    target.verbatim(head, 0);
    target.verbatim(nested.subarray(0, -1), 0);
    await target.drain();
    this.#connection.throwFailure();
    guest.check();
    onLeaving();
    try {
      target.verbatim(nested.subarray(-1), 0);
      target.verbatim(encodedCommand(pingCommand(PostcopyPing.LISTENING)), 0);
      await target.drain();
    } catch (error) {
      await this.#connection.breakOff(error);
    }
  }

  /**
   * Serves pages until the destination has all. Broken connections pause it, until it is given another one.
   *
   * @throws MachineError when the guest did not stand still: what was sent cannot be trusted; when the destination refused
   *   it, see {@link isRefused}. CancelledError after {@link abandon}.
   */
  async serve(state: MigrationState): Promise<void> {
    const server = this.#server;
    assert(server !== undefined, "pages are served once the guest was handed over");
    this.#noticeLoaded(state, this.#connection);
    let devicesLoaded = false;
    while (true) {
      try {
        await server.serve(this.#connection, devicesLoaded);
        this.#connection.close();
        return;
      } catch (error) {
        // Later connections are recoveries, and the word of a destination that has forgotten what ran is worth nothing.
        if (!devicesLoaded) this.#throwIfRefused();
        this.#throwIfOver(error);
        this.#pause(state, asError(error));
      }
      await this.#recover(server, state);
      devicesLoaded = true;
    }
  }

  /** Breaks the connection, as if the network had. */
  pause(): void {
    this.#connection.fail(new MachineError("connection-closed", "Postcopy migration is paused by the user"));
  }

  /** Whether it waits for another connection. */
  get isPaused(): boolean {
    return this.#resume !== undefined;
  }

  /**
   * Goes on over another connection.
   *
   * @throws UsageError when it is not paused.
   */
  resume(way: PostcopyWay): void {
    if (this.#resume === undefined)
      throw new UsageError("There is no paused postcopy migration that could be resumed");
    this.#resume(way);
  }

  /** It stays paused: another connection could not be made. */
  stayPaused(error: Error): void {
    this.#error = error;
  }

  /** Ends it for good, where the guest stays here, or this process ends. */
  abandon(): void {
    this.#over.abort();
    this.#connection.fail(new CancelledError());
  }

  #connect(way: PostcopyWay): PostcopyConnection {
    const take = (request: PageRequest, offset: number): void => this.#take(request, offset);
    return new PostcopyConnection(way, this.#source, take, this.#clock);
  }

  #take(request: PageRequest, offset: number): void {
    if (this.#server === undefined) {
      throw new FormatError("inconsistent", "The destination asks for pages before it has the guest", {
        offset,
      });
    }
    this.#server.request(request, offset);
  }

  #serverFor(blocks: readonly DiscardedBlock[]): PageServer {
    const server = new PageServer(this.#source, {
      ramId: RAM_SECTION_ID,
      footers: true,
      clock: this.#clock,
      onSent: () => this.onSent?.(),
      fillBytesPerSecond: () => this.#options.parameters()["max-postcopy-bandwidth"],
    });
    for (const [index, { content }] of this.#source.blocks.entries()) {
      const missing = blocks[index]?.missing ?? content;
      server.sent.adoptReceived(index, content.without(missing));
    }
    return server;
  }

  async #discard(target: OutgoingTarget, blocks: readonly DiscardedBlock[]): Promise<void> {
    let commands = 0;
    for (const command of discardCommands(blocks, this.#source.targetPageSize)) {
      target.verbatim(encodedCommand(command), 0);
      commands += 1;
      if (commands % COMMANDS_AT_ONCE === 0) await target.drain();
    }
  }

  /** The destination says that it has loaded its devices, and is about to run. */
  #noticeLoaded(state: MigrationState, connection: PostcopyConnection): void {
    connection.pong(PING_PACKAGED_LOADED).then(
      () => {
        if (state.status === "postcopy-device") state.enter("postcopy-active");
      },
      () => undefined,
    );
  }

  #preemptChannel(): PreemptChannel | undefined {
    const { openPreempt } = this.#way;
    return openPreempt && { connect: () => openPreempt(this.#over.signal), early: false };
  }

  #pause(state: MigrationState, error: Error): void {
    this.#error = error;
    this.#connection.close();
    if (state.status !== "postcopy-paused") state.enter("postcopy-paused");
  }

  /** Waits for another connection over which the destination agrees to go on. */
  async #recover(server: PageServer, state: MigrationState): Promise<void> {
    while (true) {
      this.#way = await this.#nextWay();
      state.enter("postcopy-recover");
      server.beginRecovery();
      const connection = this.#connect(this.#way);
      this.#connection = connection;
      try {
        await recoverPostcopy(connection, server, this.#source, this.#preemptChannel());
        this.#error = undefined;
        state.enter("postcopy-active");
        return;
      } catch (error) {
        this.#throwIfOver(error);
        connection.fail(asError(error));
        this.#pause(state, connection.failure ?? asError(error));
      }
    }
  }

  async #nextWay(): Promise<PostcopyWay> {
    const { signal } = this.#over;
    let stop = (): void => undefined;
    try {
      return await new Promise((resolve, reject) => {
        this.#resume = resolve;
        stop = () => reject(new CancelledError());
        signal.addEventListener("abort", stop, { once: true });
        if (signal.aborted) stop();
      });
    } finally {
      signal.removeEventListener("abort", stop);
      this.#resume = undefined;
    }
  }

  #throwIfRefused(): void {
    const { failure, hasRefused } = this.#connection;
    if (failure === undefined || !hasRefused) return;
    this.#isRefused = true;
    throw failure;
  }

  #throwIfOver(error: unknown): void {
    if (this.#over.signal.aborted) throw new CancelledError(undefined, error);
    this.#checkGuest();
  }

  #checkGuest(): void {
    if (this.#guest?.isHeld !== false) return;
    throw new MachineError(
      "migration-failed",
      "The guest was let go on here though it is the destination's by now",
      {
        hint: "end one of the two: what the destination has of its memory is not to be trusted",
      },
    );
  }
}
