import { asError } from "../../errors/as-error.js";
import { assert, CancelledError, UsageError } from "../../errors/index.js";
import type { KnownMigrationStatus, MigrationInfo } from "../../qapi/index.js";
import {
  type Configuration,
  decodeStreamTail,
  RAM_SECTION,
  type RamRecordSink,
  SectionType,
} from "../../wire/index.js";
import { type Clock, systemClock } from "../clock.js";
import { encodeGlobalState } from "../global-state.js";
import type { MigrationHost } from "../host.js";
import { IGNORE_SHARED_CAPABILITY } from "../mapped-ram/capability.js";
import type { PageCounts } from "../mapped-ram/placed-pages.js";
import { isInPostcopy, MigrationState } from "../migration-states.js";
import { type OutgoingCounters, outgoingInfo } from "./counters.js";
import { DeviceSectionWriter, RAM_SECTION_ID } from "./device-sections.js";
import { GuestHold } from "./guest-hold.js";
import type { OutgoingOptions } from "./outgoing-options.js";
import type { OutgoingTarget } from "./outgoing-target.js";
import type { OutgoingPostcopy, PostcopyWay } from "./postcopy/outgoing-postcopy.js";
import { PrecopyRounds } from "./precopy-rounds.js";

/**
 * The source's side of one migration: rounds over changed memory while the guest runs, a switch-over once what is left is
 * small enough, or somebody wants postcopy, and the guest's own again whenever that fails.
 *
 * It ends in one of two ways: {@link run} resolves, and the guest stands still for good; or it rejects, and a guest that
 * ran before runs. In postcopy there is no way back: the guest is the destination's when it was handed over, a broken
 * connection only pauses the migration, and what rejects then leaves the guest as it is; but for a destination that says
 * that it could not load it, and so never ran it.
 */
export class OutgoingMigration {
  readonly #host: MigrationHost;
  readonly #target: OutgoingTarget;
  readonly #options: OutgoingOptions;
  readonly #clock: Clock;
  readonly #state: MigrationState;
  readonly #counters: OutgoingCounters;
  readonly #rounds: PrecopyRounds;
  readonly #guest: GuestHold;
  /** Ends sleeps. */
  readonly #over = new AbortController();
  #continue: (() => void) | undefined;
  #wantsPostcopy = false;
  #error: string | undefined;

  constructor(host: MigrationHost, target: OutgoingTarget, options: OutgoingOptions) {
    const { clock = systemClock, parameters } = options;
    this.#host = host;
    this.#target = target;
    this.#options = options;
    this.#clock = clock;
    this.#state = options.state ?? new MigrationState();
    this.#guest = new GuestHold(host, options.onGuest);
    this.#counters = {
      startMs: clock.now(),
      setupMs: undefined,
      stopMs: undefined,
      handedOverMs: undefined,
      endMs: undefined,
      rounds: 0,
      dirtyPagesPerSecond: 0,
      precopyBytes: undefined,
      handedOverBytes: undefined,
      expectedDowntimeMs: parameters()["downtime-limit"],
      syncMs: 0,
    };
    const { signal: over } = this.#over;
    this.#rounds = new PrecopyRounds({ host, target, options, clock, counters: this.#counters, over });
  }

  get status(): KnownMigrationStatus {
    return this.#state.status;
  }

  /** The answer to `query-migrate`. */
  get info(): MigrationInfo {
    const rounds = this.#rounds;
    const { postcopy } = this.#options;
    // Nothing may have gone out for a while.
    if (isInPostcopy(this.#state.status)) this.#measure();
    return outgoingInfo(this.#counters, {
      status: this.#state.status,
      nowMs: this.#clock.now(),
      transferredBytes: this.#transferredBytes,
      remainingBytes: postcopy?.remainingBytes ?? rounds.remainingBytes,
      totalBytes: rounds.totalBytes,
      pages: this.#pageCounts,
      postcopyRequests: postcopy?.requests ?? 0,
      pageSize: this.#host.pageSize,
      bytesPerSecond: rounds.bandwidth.bytesPerSecond,
      pagesPerSecond: rounds.bandwidth.pagesPerSecond,
      throttlePercentage: rounds.throttlePercentage,
      xbzrle: this.#options.xbzrle?.stats,
      error: this.#error ?? postcopy?.error?.message,
    });
  }

  /**
   * Migrates; to be called once.
   *
   * @throws CancelledError after {@link cancel}; MachineError when the other side or the channel failed, a RAM block was
   *   resized, or memory changed while the guest stood still. The guest then runs if it ran before, unless it is the
   *   destination's by then.
   */
  async run(): Promise<void> {
    if (this.#state.status !== "setup") this.#state.enter("setup");
    try {
      const sink = this.#setUp();
      // The block list may be as long as a slice of pages.
      await this.#target.drain();
      this.#throwIfCancelled();
      this.#state.enter("active");
      if (this.#options.live !== false) await this.#rounds.run(sink, () => this.#wantsPostcopy);
      // From here on it is one or the other.
      const postcopy = this.#wantsPostcopy ? this.#options.postcopy : undefined;
      await postcopy?.prepare();
      await this.#stopForSwitchOver();
      if (postcopy === undefined) await this.#finishPrecopy(sink);
      else await this.#goOverToPostcopy(postcopy);
      this.#counters.endMs = this.#clock.now();
      this.#state.enter("completed");
    } catch (error) {
      throw await this.#giveUp(error);
    } finally {
      this.#rounds.end();
    }
  }

  /**
   * Ends the migration with the guest running on; does nothing once it has ended.
   *
   * @throws UsageError in postcopy: the guest is the destination's.
   */
  cancel(): void {
    if (!this.#state.underWay || this.#cancelled) return;
    if (isInPostcopy(this.#state.status)) {
      throw new UsageError("A postcopy migration cannot be cancelled: the guest runs at the destination");
    }
    if (this.#state.status === "failing") return;
    this.#state.enter("cancelling");
    this.#over.abort();
    this.#target.abort();
    this.#options.postcopy?.abandon();
    this.#continue?.();
  }

  /**
   * Goes on from `pre-switchover`.
   *
   * @throws UsageError in any other state.
   */
  continue(): void {
    if (this.#continue === undefined || this.#state.status !== "pre-switchover") {
      throw new UsageError(`The migration is not paused before its switch-over but ${this.#state.status}`);
    }
    this.#continue();
  }

  /** Lets the guest go over to the destination as soon as it can. Without the option `postcopy` it does nothing. */
  startPostcopy(): void {
    this.#wantsPostcopy = this.#options.postcopy !== undefined;
  }

  /**
   * Breaks the connection of a postcopy migration (`migrate-pause`).
   *
   * @throws UsageError but in `postcopy-active` and `postcopy-recover`.
   */
  pause(): void {
    const { status } = this.#state;
    if (status !== "postcopy-active" && status !== "postcopy-recover") {
      throw new UsageError("Only a migration in postcopy-active or postcopy-recover can be paused", {
        actual: status,
      });
    }
    this.#options.postcopy?.pause();
  }

  /**
   * Goes on over another connection; the status is `postcopy-recover-setup`.
   *
   * @param way Undefined when there is none: then it is paused as before.
   * @param error Why there is none.
   */
  resume(way: PostcopyWay | undefined, error?: Error): void {
    const { postcopy } = this.#options;
    assert(postcopy !== undefined, "only postcopy is resumed");
    if (way !== undefined) postcopy.resume(way);
    else {
      postcopy.stayPaused(asError(error));
      this.#state.enter("postcopy-paused");
    }
  }

  /** Ends the migration in whatever state, because the machine ends: a guest that was handed over stays as it is. */
  abandon(): void {
    if (isInPostcopy(this.#state.status)) this.#options.postcopy?.abandon();
    else this.cancel();
  }

  get #transferredBytes(): number {
    return this.#target.transferredBytes + (this.#options.postcopy?.sentBytes ?? 0);
  }

  get #pageCounts(): PageCounts {
    const { normal, zero } = this.#target.pageCounts;
    const later = this.#options.postcopy?.sentPages;
    return { normal: normal + (later?.normal ?? 0), zero: zero + (later?.zero ?? 0) };
  }

  /** How fast it goes in postcopy; before, the rounds measure that. */
  #measure(): void {
    const { normal, zero } = this.#pageCounts;
    this.#rounds.bandwidth.measure(this.#transferredBytes, normal + zero);
  }

  get #cancelled(): boolean {
    return this.#over.signal.aborted;
  }

  get #configuration(): Configuration {
    const { capabilities } = this.#options;
    const { machine, uuid } = this.#host;
    return {
      machine,
      capabilities: capabilities["x-ignore-shared"] ? [IGNORE_SHARED_CAPABILITY] : [],
      ...(capabilities["validate-uuid"] && uuid !== undefined ? { uuid } : {}),
    };
  }

  #setUp(): RamRecordSink {
    const target = this.#target;
    this.#rounds.watch();
    target.configuration(this.#configuration);
    const header = { id: RAM_SECTION_ID, instance: 0, ...RAM_SECTION };
    const sink = target.ramStart(header, this.#rounds.blocks, this.#host.pageSize, 0);
    target.ramSectionEnd(SectionType.START, true);
    this.#rounds.beginRound();
    this.#counters.setupMs = this.#clock.now() - this.#counters.startMs;
    return sink;
  }

  /** Stops the guest and looks a last time for what it has changed. */
  async #stopForSwitchOver(): Promise<void> {
    this.#counters.precopyBytes = this.#target.transferredBytes;
    await this.#guest.stop(() => {
      this.#counters.stopMs = this.#clock.now();
    });
    this.#throwIfCancelled();
    if (this.#options.capabilities["pause-before-switchover"]) await this.#pause();
    this.#throwIfCancelled();
    this.#state.enter("device");
    this.#guest.hold();
    await this.#rounds.lastSync();
  }

  /** Sends all that is left, and hands the guest over when everything has arrived. */
  async #finishPrecopy(sink: RamRecordSink): Promise<void> {
    const target = this.#target;
    await this.#rounds.sendRest(sink);
    target.ramSectionEnd(SectionType.END, true);
    this.#guest.check();
    const devices = this.#saveDevices();
    this.#rounds.checkBlocks();
    if (target.closesPages) await this.#rounds.checkStillness();
    // The last moment at which the destination cannot have the guest yet.
    this.#guest.check();
    this.#throwIfCancelled();
    const bytes = devices.finish();
    target.tail(decodeStreamTail(bytes, 0), bytes);
    await target.drain();
    if (!target.hasArrived) this.#throwIfCancelled();
    this.#guest.check();
    await target.finish();
  }

  /** Hands the guest over with the pages missing that have not been sent, and serves them. */
  async #goOverToPostcopy(postcopy: OutgoingPostcopy): Promise<void> {
    const { bitmaps } = this.#rounds.pages;
    const devices = this.#saveDevices();
    this.#rounds.checkBlocks();
    await postcopy.handOver(this.#target, bitmaps, devices.sections(), this.#guest, () => {
      this.#throwIfCancelled();
      this.#state.enter("postcopy-device");
    });
    this.#rounds.end();
    this.#counters.handedOverMs = this.#clock.now();
    this.#counters.handedOverBytes = this.#target.transferredBytes;
    postcopy.onSent = () => this.#measure();
    await postcopy.serve(this.#state);
  }

  #saveDevices(): DeviceSectionWriter {
    const devices = new DeviceSectionWriter(this.#configuration, this.#host.pageSize);
    devices.add(encodeGlobalState(this.#guest.wasRunning, this.#host.suspended));
    for (const device of this.#host.saveDevices()) devices.add(device);
    return devices;
  }

  async #pause(): Promise<void> {
    const continued = new Promise<void>((resolve) => {
      this.#continue = resolve;
    });
    this.#state.enter("pre-switchover");
    await continued;
    this.#continue = undefined;
  }

  /** Lets the guest go on where it ran; returns what to throw. */
  async #giveUp(error: unknown): Promise<unknown> {
    const cancelled = this.#cancelled;
    this.#error = asError(error).message;
    if (isInPostcopy(this.#state.status) && this.#options.postcopy?.isRefused !== true) {
      // Abandoned it stays as it is: somebody may still mend it who has this guest's memory. Otherwise nobody can.
      if (!(error instanceof CancelledError)) this.#state.enter("failed");
      return error;
    }
    try {
      if (!cancelled) this.#state.enter("failing");
      this.#target.abort();
      this.#options.postcopy?.abandon();
      // The guest's own memory may still be read.
      await this.#target.overlapped?.settle().catch(() => undefined);
    } finally {
      // Whatever else fails: the guest must not stand still.
      await this.#guest.release().finally(() => this.#state.enter(cancelled ? "cancelled" : "failed"));
    }
    return cancelled ? new CancelledError(undefined, error) : error;
  }

  #throwIfCancelled(): void {
    if (this.#cancelled) throw new CancelledError();
  }
}
