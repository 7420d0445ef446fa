import { asError } from "../../errors/as-error.js";
import { CancelledError, MachineError, UsageError } from "../../errors/index.js";
import type {
  Capabilities,
  KnownMigrationStatus,
  MigrationInfo,
  MigrationParameters,
} from "../../qapi/index.js";
import {
  type Configuration,
  decodeStreamTail,
  RAM_SECTION,
  type RamBlockEntry,
  type RamRecordSink,
  SectionType,
} from "../../wire/index.js";
import { type Clock, systemClock } from "../clock.js";
import { encodeGlobalState } from "../global-state.js";
import type { DirtyLog, MigrationHost } from "../host.js";
import { IGNORE_SHARED_CAPABILITY } from "../mapped-ram/capability.js";
import { MigrationState } from "../migration-states.js";
import { type ProgressListener, ProgressMeter } from "../progress.js";
import { AutoConverge } from "./auto-converge.js";
import { Bandwidth } from "./bandwidth.js";
import { type OutgoingCounters, outgoingInfo } from "./counters.js";
import { DeviceSectionWriter, RAM_SECTION_ID } from "./device-sections.js";
import { DirtyPages } from "./dirty-pages.js";
import { memoryOf, type PageSource } from "./host-memory.js";
import type { OutgoingTarget } from "./outgoing-target.js";
import { SLICE_BYTES } from "./slice.js";
import type { XbzrleCache } from "./xbzrle-cache.js";

const LONGEST_SLEEP_MS = 100;
/**
 * Memory of a guest that stands still, which other threads write from where it is: a piece for one of them. With 1 MiB the
 * turns in between took a fifth of the time.
 */
const STILL_SLICE_BYTES = 4 << 20;

/** How to migrate. */
export interface OutgoingOptions {
  readonly capabilities: Capabilities;
  /** Asked anew each time: some may change while the migration runs. */
  readonly parameters: () => MigrationParameters;
  /** The target's cache, for its statistics. */
  readonly xbzrle?: XbzrleCache;
  /** Whether a running guest goes on while most of its memory is sent; default true. */
  readonly live?: boolean;
  /** Where the migration stands, when it is in `setup` already; otherwise one of its own. */
  readonly state?: MigrationState;
  readonly clock?: Clock;
  /** QEMU's MIGRATION_PASS event: a pass over dirty memory begins, from 1. */
  readonly onPass?: (pass: number) => void;
  /** The guest was stopped for the switch-over; or goes on because the migration did not end well. */
  readonly onGuest?: (change: "stopped" | "resumed") => void;
  readonly onProgress?: ProgressListener;
}

/**
 * The source's side of one precopy migration: rounds over changed memory while the guest runs, a switch-over once what is
 * left is small enough, and the guest's own again whenever that fails.
 *
 * It ends in one of two ways: {@link run} resolves, and the guest stands still for good; or it rejects, and a guest that
 * ran before runs.
 */
export class OutgoingMigration {
  readonly #host: MigrationHost;
  readonly #target: OutgoingTarget;
  readonly #options: OutgoingOptions;
  readonly #clock: Clock;
  readonly #state: MigrationState;
  readonly #meter: ProgressMeter;
  readonly #bandwidth: Bandwidth;
  readonly #autoConverge: AutoConverge | undefined;
  readonly #counters: OutgoingCounters;
  /** As they were at the start. */
  readonly #blocks: readonly RamBlockEntry[];
  readonly #pages: DirtyPages;
  readonly #totalBytes: number;
  /** Ends sleeps. */
  readonly #over = new AbortController();
  #log: DirtyLog | undefined;
  #runCount: number;
  #wasRunning: boolean;
  /** As of our stopping the guest; undefined when it was not we who stopped it. */
  #stoppedAtRunCount: number | undefined;
  #continue: (() => void) | undefined;
  #lastSyncMs: number;
  #error: string | undefined;

  constructor(host: MigrationHost, target: OutgoingTarget, options: OutgoingOptions) {
    const { clock = systemClock, parameters, capabilities } = options;
    this.#host = host;
    this.#target = target;
    this.#options = options;
    this.#clock = clock;
    this.#state = options.state ?? new MigrationState();
    this.#meter = new ProgressMeter(options.onProgress);
    this.#bandwidth = new Bandwidth(clock, parameters);
    this.#autoConverge = capabilities["auto-converge"] ? new AutoConverge(clock, parameters) : undefined;
    this.#runCount = host.runCount;
    this.#wasRunning = host.running;
    this.#lastSyncMs = clock.now();
    this.#counters = {
      startMs: clock.now(),
      setupMs: undefined,
      stopMs: undefined,
      endMs: undefined,
      rounds: 0,
      dirtyPagesPerSecond: 0,
      precopyBytes: undefined,
      expectedDowntimeMs: parameters()["downtime-limit"],
      syncMs: 0,
    };
    const ignoreShared = capabilities["x-ignore-shared"];
    const blocks = host.ramBlocks();
    this.#blocks = blocks.map(({ name, usedLength, guestAddress }) => ({
      name,
      usedLength,
      ...(ignoreShared ? { guestAddress: guestAddress ?? 0n } : {}),
    }));
    const travelling = blocks.map(({ usedLength, shared }) =>
      ignoreShared && shared === true ? 0 : usedLength,
    );
    this.#totalBytes = travelling.reduce((sum, length) => sum + length, 0);
    this.#pages = new DirtyPages(travelling.map((length) => length / host.pageSize));
  }

  get status(): KnownMigrationStatus {
    return this.#state.status;
  }

  /** The answer to `query-migrate`. */
  get info(): MigrationInfo {
    return outgoingInfo(this.#counters, {
      status: this.#state.status,
      nowMs: this.#clock.now(),
      transferredBytes: this.#target.transferredBytes,
      remainingBytes: this.#remainingBytes,
      totalBytes: this.#totalBytes,
      pages: this.#target.pageCounts,
      pageSize: this.#host.pageSize,
      bytesPerSecond: this.#bandwidth.bytesPerSecond,
      pagesPerSecond: this.#bandwidth.pagesPerSecond,
      throttlePercentage: this.#autoConverge?.percentage ?? 0,
      xbzrle: this.#options.xbzrle?.stats,
      error: this.#error,
    });
  }

  /**
   * Migrates; to be called once.
   *
   * @throws CancelledError after {@link cancel}; MachineError when the other side or the channel failed, a RAM block was
   *   resized, or memory changed while the guest stood still. The guest then runs if it ran before.
   */
  async run(): Promise<void> {
    if (this.#state.status !== "setup") this.#state.enter("setup");
    try {
      const sink = this.#setUp();
      // The block list may be as long as a slice of pages.
      await this.#target.drain();
      this.#throwIfCancelled();
      this.#state.enter("active");
      if (this.#options.live !== false) await this.#precopy(sink);
      await this.#switchOver(sink);
      this.#counters.endMs = this.#clock.now();
      this.#state.enter("completed");
    } catch (error) {
      throw await this.#giveUp(error);
    } finally {
      this.#host.throttle?.(0);
      this.#log?.stop();
    }
  }

  /** Ends the migration with the guest running on; does nothing once it has ended. */
  cancel(): void {
    if (!this.#state.underWay || this.#cancelled) return;
    if (this.#state.status === "failing") return;
    this.#state.enter("cancelling");
    this.#over.abort();
    this.#target.abort();
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

  get #cancelled(): boolean {
    return this.#over.signal.aborted;
  }

  get #remainingBytes(): number {
    return this.#pages.remaining * this.#host.pageSize;
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
    const host = this.#host;
    const target = this.#target;
    if (host.running && this.#options.live !== false) this.#log = host.startDirtyLog();
    this.#pages.setAll();
    target.configuration(this.#configuration);
    const header = { id: RAM_SECTION_ID, instance: 0, ...RAM_SECTION };
    const sink = target.ramStart(header, this.#blocks, host.pageSize, 0);
    target.ramSectionEnd(SectionType.START, true);
    this.#beginRound();
    this.#counters.setupMs = this.#clock.now() - this.#counters.startMs;
    return sink;
  }

  /** Rounds with the guest running, until what is left can go while it stands still. */
  async #precopy(sink: RamRecordSink): Promise<void> {
    while (true) {
      await this.#sendSlice(sink, this.#bandwidth.sliceBytes);
      await this.#holdBack();
      this.#bandwidth.measure(this.#target.transferredBytes, this.#sentPages, this.#pages.remaining === 0);
      this.#report("migrating");
      this.#noticeOtherRuns();
      if (this.#log === undefined) {
        if (this.#pages.remaining === 0) return;
      } else if (this.#isSmallEnough()) {
        await this.#sync(this.#log);
        if (this.#isSmallEnough()) return;
      }
    }
  }

  /** Waits until more may be sent: a turn for everybody else at least. */
  async #holdBack(): Promise<void> {
    await this.#clock.turn();
    this.#throwIfCancelled();
    while (true) {
      const waitMs = this.#bandwidth.waitMs(this.#target.transferredBytes);
      if (waitMs === 0) return;
      // In short steps: the limit may change meanwhile.
      await this.#clock.sleep(Math.min(Math.max(waitMs, 1), LONGEST_SLEEP_MS), this.#over.signal);
      this.#throwIfCancelled();
    }
  }

  #isSmallEnough(): boolean {
    const limitMs = this.#options.parameters()["downtime-limit"];
    const expectedMs = this.#bandwidth.expectedMs(this.#remainingBytes);
    // A last look for changed pages is taken with the guest stopped. It alone must not keep a migration from ending.
    return expectedMs === 0 || expectedMs <= Math.max(limitMs - this.#counters.syncMs, limitMs / 2);
  }

  /** Somebody may let a guest go on that stood still when the migration began: its memory has to be looked after then. */
  #noticeOtherRuns(): void {
    if (this.#log !== undefined || this.#host.runCount === this.#runCount) return;
    this.#log = this.#host.startDirtyLog();
    this.#pages.setAll();
    this.#beginRound();
  }

  /** Looks for changed pages while the guest may run. */
  async #sync(log: DirtyLog): Promise<void> {
    this.#checkBlocks();
    const startMs = this.#clock.now();
    await log.sync(this.#pages.bitmaps, async () => {
      await this.#clock.turn();
      this.#throwIfCancelled();
    });
    const dirtied = this.#pages.recount();
    const nowMs = this.#clock.now();
    const counters = this.#counters;
    counters.syncMs = nowMs - startMs;
    if (nowMs > this.#lastSyncMs)
      counters.dirtyPagesPerSecond = (dirtied * 1000) / (nowMs - this.#lastSyncMs);
    this.#lastSyncMs = nowMs;
    const expectedMs = this.#bandwidth.expectedMs(this.#remainingBytes) + counters.syncMs;
    if (Number.isFinite(expectedMs)) counters.expectedDowntimeMs = expectedMs;
    if (this.#autoConverge?.observe(dirtied * this.#host.pageSize, this.#target.transferredBytes) === true) {
      this.#host.throttle?.(this.#autoConverge.percentage);
    }
    this.#beginRound();
  }

  #beginRound(): void {
    this.#counters.rounds += 1;
    this.#target.beginRound(this.#counters.rounds);
    this.#options.onPass?.(this.#counters.rounds);
  }

  async #switchOver(sink: RamRecordSink): Promise<void> {
    const host = this.#host;
    const target = this.#target;
    await this.#stopGuest();
    this.#throwIfCancelled();
    if (this.#options.capabilities["pause-before-switchover"]) await this.#pause();
    this.#throwIfCancelled();
    this.#state.enter("device");
    const runCount = host.runCount;
    // In the pause somebody may have let it go on.
    this.#checkStopped(runCount);
    // If so, it was also they who stopped it again.
    if (this.#stoppedAtRunCount !== runCount) this.#wasRunning = false;
    this.#checkBlocks();
    if (this.#log !== undefined) {
      await this.#log.sync(this.#pages.bitmaps, undefined);
      this.#pages.recount();
      this.#beginRound();
    } else if (this.#options.live !== false && runCount !== this.#runCount) {
      // Pages that went before may have changed.
      throw disturbed("The guest ran for a moment at the switch-over");
    }
    while (this.#pages.remaining > 0) {
      await this.#sendSlice(sink);
      await this.#clock.turn();
      this.#report("switching over");
      this.#throwIfCancelled();
    }
    await target.overlapped?.settle();
    target.ramSectionEnd(SectionType.END, true);
    this.#checkStopped(runCount);
    const devices = new DeviceSectionWriter(this.#configuration, host.pageSize);
    devices.add(encodeGlobalState(this.#wasRunning));
    for (const device of host.saveDevices()) devices.add(device);
    this.#checkBlocks();
    if (target.closesPages) await this.#checkStillness();
    // The last moment at which the destination cannot have the guest yet.
    this.#checkStopped(runCount);
    this.#throwIfCancelled();
    const bytes = devices.finish();
    target.tail(decodeStreamTail(bytes, 0), bytes);
    await target.drain();
    if (!target.hasArrived) this.#throwIfCancelled();
    this.#checkStopped(runCount);
    await target.finish();
  }

  #checkStopped(runCount: number): void {
    if (!this.#host.running && this.#host.runCount === runCount) return;
    throw disturbed("The guest was let go on during the switch-over");
  }

  async #stopGuest(): Promise<void> {
    const host = this.#host;
    this.#wasRunning = host.running;
    this.#counters.precopyBytes = this.#target.transferredBytes;
    if (!this.#wasRunning) {
      await host.stop();
      return;
    }
    this.#counters.stopMs = this.#clock.now();
    this.#stoppedAtRunCount = host.runCount;
    await host.stop();
    this.#options.onGuest?.("stopped");
  }

  async #pause(): Promise<void> {
    const continued = new Promise<void>((resolve) => {
      this.#continue = resolve;
    });
    this.#state.enter("pre-switchover");
    await continued;
    this.#continue = undefined;
  }

  /** What the file has must be what memory has: nobody may write to it any more, no device either. */
  async #checkStillness(): Promise<void> {
    if (this.#log === undefined) return;
    await this.#log.sync(this.#pages.bitmaps, undefined);
    if (this.#pages.recount() > 0) throw disturbed("Guest memory was written while the guest stood still");
  }

  /** Sends the next dirty pages, up to so many bytes of them; one at least. */
  async #sendSlice(sink: RamRecordSink, bytes = SLICE_BYTES): Promise<void> {
    const { pageSize } = this.#host;
    const { overlapped } = this.#target;
    // What a log hands out is a copy, or memory that is only valid during the call.
    const isStill = overlapped !== undefined && this.#log === undefined && !this.#host.running;
    const sliceBytes = isStill && bytes === SLICE_BYTES ? STILL_SLICE_BYTES : bytes;
    const source: PageSource = this.#log ?? memoryOf(this.#host, Math.max(SLICE_BYTES, sliceBytes));
    const most = Math.max(1, Math.floor(sliceBytes / pageSize));
    for (let taken = 0; taken < most;) {
      const run = this.#pages.take(most - taken);
      if (run === undefined) break;
      taken += run.end - run.start;
      if (overlapped !== undefined) {
        await overlapped.take(source, run.block, run, isStill);
        continue;
      }
      source.take(run.block, run, (bytes, address) => {
        for (let at = 0; at < bytes.length; at += pageSize) sink.page(run.block, address + at, bytes, at);
      });
    }
    await this.#target.drain();
  }

  get #sentPages(): number {
    const { normal, zero } = this.#target.pageCounts;
    const { pages = 0, overflow = 0 } = this.#options.xbzrle?.stats ?? {};
    return normal + zero + pages - overflow;
  }

  /** `ram_mig_ram_block_resized` of QEMU: what was announced cannot be changed any more. */
  #checkBlocks(): void {
    const now = this.#host.ramBlocks();
    for (const [index, { name, usedLength }] of this.#blocks.entries()) {
      const block = now[index];
      if (block?.name === name && block.usedLength === usedLength && now.length === this.#blocks.length)
        continue;
      throw new MachineError("migration-failed", "A RAM block was resized while it was migrated", {
        block: name,
        expected: usedLength,
        actual: block?.usedLength ?? "no such block",
        hint: "migrate again",
      });
    }
  }

  /** Lets the guest go on where it ran; returns what to throw. */
  async #giveUp(error: unknown): Promise<unknown> {
    const cancelled = this.#cancelled;
    this.#error = asError(error).message;
    try {
      if (!cancelled) this.#state.enter("failing");
      this.#target.abort();
      // The guest's own memory may still be read.
      await this.#target.overlapped?.settle().catch(() => undefined);
    } finally {
      // Whatever else fails: the guest must not stand still.
      await this.#resumeGuest(cancelled);
    }
    return cancelled ? new CancelledError(undefined, error) : error;
  }

  async #resumeGuest(cancelled: boolean): Promise<void> {
    try {
      // Where somebody has let it go on since, what it does now is as they want it.
      if (this.#stoppedAtRunCount === this.#host.runCount) {
        await this.#host.run();
        this.#options.onGuest?.("resumed");
      }
    } finally {
      this.#state.enter(cancelled ? "cancelled" : "failed");
    }
  }

  #throwIfCancelled(): void {
    if (this.#cancelled) throw new CancelledError();
  }

  #report(phase: string): void {
    this.#meter.update(this.#target.transferredBytes, () => ({
      phase,
      totalBytes: this.#totalBytes,
      remainingBytes: this.#remainingBytes,
      dirtySyncCount: this.#counters.rounds,
      dirtyBytesPerSecond: this.#counters.dirtyPagesPerSecond * this.#host.pageSize,
    }));
  }
}

function disturbed(message: string): MachineError {
  return new MachineError("migration-failed", message, { hint: "migrate again" });
}
