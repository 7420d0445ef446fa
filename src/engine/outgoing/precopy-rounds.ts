import { CancelledError, MachineError } from "../../errors/index.js";
import type { RamBlockEntry, RamRecordSink } from "../../wire/index.js";
import type { Clock } from "../clock.js";
import type { DirtyLog, MigrationHost } from "../host.js";
import { ProgressMeter } from "../progress.js";
import { AutoConverge } from "./auto-converge.js";
import { Bandwidth } from "./bandwidth.js";
import type { OutgoingCounters } from "./counters.js";
import { DirtyPages } from "./dirty-pages.js";
import { disturbed } from "./disturbed.js";
import { memoryOf, type PageSource } from "./host-memory.js";
import type { OutgoingOptions } from "./outgoing-options.js";
import type { OutgoingTarget } from "./outgoing-target.js";
import { SLICE_BYTES } from "./slice.js";

const LONGEST_SLEEP_MS = 100;
/**
 * Memory of a guest that stands still, which other threads write from where it is: a piece for one of them. With 1 MiB the
 * turns in between took a fifth of the time.
 */
const STILL_SLICE_BYTES = 4 << 20;

/** What the rounds have of the migration that they belong to. */
export interface PrecopyContext {
  readonly host: MigrationHost;
  readonly target: OutgoingTarget;
  readonly options: OutgoingOptions;
  readonly clock: Clock;
  readonly counters: OutgoingCounters;
  /** Fires when the migration is cancelled. */
  readonly over: AbortSignal;
}

/** The rounds over a guest's memory in which changed pages are found and sent. */
export class PrecopyRounds {
  /** What the block list says: as it was at the start. */
  readonly blocks: readonly RamBlockEntry[];
  /** Bytes of the blocks whose pages travel. */
  readonly totalBytes: number;
  readonly pages: DirtyPages;
  readonly bandwidth: Bandwidth;
  readonly #context: PrecopyContext;
  readonly #autoConverge: AutoConverge | undefined;
  readonly #meter: ProgressMeter;
  #log: DirtyLog | undefined;
  #runCount: number;
  #lastSyncMs: number;

  constructor(context: PrecopyContext) {
    this.#context = context;
    const { host, clock, options } = context;
    const { capabilities, parameters } = options;
    this.#meter = new ProgressMeter(options.onProgress);
    this.bandwidth = new Bandwidth(clock, parameters);
    this.#autoConverge = capabilities["auto-converge"] ? new AutoConverge(clock, parameters) : undefined;
    this.#runCount = host.runCount;
    this.#lastSyncMs = clock.now();
    const ignoreShared = capabilities["x-ignore-shared"];
    const blocks = host.ramBlocks();
    this.blocks = blocks.map(({ name, usedLength, guestAddress }) => ({
      name,
      usedLength,
      ...(ignoreShared ? { guestAddress: guestAddress ?? 0n } : {}),
    }));
    const travelling = blocks.map(({ usedLength, shared }) =>
      ignoreShared && shared === true ? 0 : usedLength,
    );
    this.totalBytes = travelling.reduce((sum, length) => sum + length, 0);
    this.pages = new DirtyPages(travelling.map((length) => length / host.pageSize));
  }

  get remainingBytes(): number {
    return this.pages.remaining * this.#context.host.pageSize;
  }

  /** Percent by which the guest is slowed down. */
  get throttlePercentage(): number {
    return this.#autoConverge?.percentage ?? 0;
  }

  /** Everything is to be sent; where the guest runs, what it writes is watched from now on. */
  watch(): void {
    const { host, options } = this.#context;
    if (host.running && options.live !== false) this.#log = host.startDirtyLog();
    this.pages.setAll();
  }

  /** Watches no more, and slows nobody down. */
  end(): void {
    this.#context.host.throttle?.(0);
    this.#log?.stop();
    this.#log = undefined;
  }

  /** A pass over dirty memory begins. */
  beginRound(): void {
    const { counters, target, options } = this.#context;
    counters.rounds += 1;
    target.beginRound(counters.rounds);
    options.onPass?.(counters.rounds);
  }

  /**
   * Rounds with the guest running, until what is left can go while it stands still.
   *
   * @param enough Asked between two pieces: ends them at once.
   */
  async run(sink: RamRecordSink, enough: () => boolean): Promise<void> {
    const { target } = this.#context;
    while (!enough()) {
      await this.#sendSlice(sink, this.bandwidth.sliceBytes);
      await this.#holdBack(enough);
      this.bandwidth.measure(target.transferredBytes, this.sentPages, this.pages.remaining === 0);
      this.#report("migrating");
      this.#noticeOtherRuns();
      if (this.#log === undefined) {
        if (this.pages.remaining === 0) return;
      } else if (this.#isSmallEnough()) {
        await this.#sync(this.#log);
        if (this.#isSmallEnough()) return;
      }
    }
  }

  /**
   * The last look for changed pages: the guest stands still.
   *
   * @throws MachineError when it ran unwatched, or a block has another size.
   */
  async lastSync(): Promise<void> {
    this.checkBlocks();
    const { host, options } = this.#context;
    if (this.#log !== undefined) {
      await this.#log.sync(this.pages.bitmaps, undefined);
      this.pages.recount();
      this.beginRound();
    } else if (options.live !== false && host.runCount !== this.#runCount) {
      // Pages that went before may have changed.
      throw disturbed("The guest ran for a moment at the switch-over");
    }
  }

  /** Sends all that is left while the guest stands still. */
  async sendRest(sink: RamRecordSink): Promise<void> {
    const { clock, target } = this.#context;
    while (this.pages.remaining > 0) {
      await this.#sendSlice(sink);
      await clock.turn();
      this.#report("switching over");
      this.#throwIfCancelled();
    }
    await target.overlapped?.settle();
  }

  /** What the file has must be what memory has: nobody may write to it any more, no device either. */
  async checkStillness(): Promise<void> {
    if (this.#log === undefined) return;
    await this.#log.sync(this.pages.bitmaps, undefined);
    if (this.pages.recount() > 0) throw disturbed("Guest memory was written while the guest stood still");
  }

  /** `ram_mig_ram_block_resized` of QEMU: what was announced cannot be changed any more. */
  checkBlocks(): void {
    const now = this.#context.host.ramBlocks();
    for (const [index, { name, usedLength }] of this.blocks.entries()) {
      const block = now[index];
      if (block?.name === name && block.usedLength === usedLength && now.length === this.blocks.length)
        continue;
      throw new MachineError("migration-failed", "A RAM block was resized while it was migrated", {
        block: name,
        expected: usedLength,
        actual: block?.usedLength ?? "no such block",
        hint: "migrate again",
      });
    }
  }

  get sentPages(): number {
    const { normal, zero } = this.#context.target.pageCounts;
    const { pages = 0, overflow = 0 } = this.#context.options.xbzrle?.stats ?? {};
    return normal + zero + pages - overflow;
  }

  /** Waits until more may be sent: a turn for everybody else at least. */
  async #holdBack(enough: () => boolean): Promise<void> {
    const { clock, target, over } = this.#context;
    await clock.turn();
    this.#throwIfCancelled();
    while (!enough()) {
      const waitMs = this.bandwidth.waitMs(target.transferredBytes);
      if (waitMs === 0) return;
      // In short steps: the limit may change meanwhile.
      await clock.sleep(Math.min(Math.max(waitMs, 1), LONGEST_SLEEP_MS), over);
      this.#throwIfCancelled();
    }
  }

  #isSmallEnough(): boolean {
    const { options, counters } = this.#context;
    const limitMs = options.parameters()["downtime-limit"];
    const expectedMs = this.bandwidth.expectedMs(this.remainingBytes);
    // A last look for changed pages is taken with the guest stopped. It alone must not keep a migration from ending.
    return expectedMs === 0 || expectedMs <= Math.max(limitMs - counters.syncMs, limitMs / 2);
  }

  /** Somebody may let a guest go on that stood still when the migration began: its memory has to be looked after then. */
  #noticeOtherRuns(): void {
    const { host } = this.#context;
    if (this.#log !== undefined || host.runCount === this.#runCount) return;
    this.#log = host.startDirtyLog();
    this.pages.setAll();
    this.beginRound();
  }

  /** Looks for changed pages while the guest may run. */
  async #sync(log: DirtyLog): Promise<void> {
    this.checkBlocks();
    const { host, clock, counters, target } = this.#context;
    const startMs = clock.now();
    await log.sync(this.pages.bitmaps, async () => {
      await clock.turn();
      this.#throwIfCancelled();
    });
    const dirtied = this.pages.recount();
    const nowMs = clock.now();
    counters.syncMs = nowMs - startMs;
    if (nowMs > this.#lastSyncMs)
      counters.dirtyPagesPerSecond = (dirtied * 1000) / (nowMs - this.#lastSyncMs);
    this.#lastSyncMs = nowMs;
    const expectedMs = this.bandwidth.expectedMs(this.remainingBytes) + counters.syncMs;
    if (Number.isFinite(expectedMs)) counters.expectedDowntimeMs = expectedMs;
    if (this.#autoConverge?.observe(dirtied * host.pageSize, target.transferredBytes) === true) {
      host.throttle?.(this.#autoConverge.percentage);
    }
    this.beginRound();
  }

  /** Sends the next dirty pages, up to so many bytes of them; one at least. */
  async #sendSlice(sink: RamRecordSink, bytes = SLICE_BYTES): Promise<void> {
    const { host, target } = this.#context;
    const { pageSize } = host;
    const { overlapped } = target;
    // What a log hands out is a copy, or memory that is only valid during the call.
    const isStill = overlapped !== undefined && this.#log === undefined && !host.running;
    const sliceBytes = isStill && bytes === SLICE_BYTES ? STILL_SLICE_BYTES : bytes;
    const source: PageSource = this.#log ?? memoryOf(host, Math.max(SLICE_BYTES, sliceBytes));
    const most = Math.max(1, Math.floor(sliceBytes / pageSize));
    for (let taken = 0; taken < most;) {
      const run = this.pages.take(most - taken);
      if (run === undefined) break;
      taken += run.end - run.start;
      if (overlapped !== undefined) {
        await overlapped.take(source, run.block, run, isStill);
        continue;
      }
      source.take(run.block, run, (piece, address) => {
        for (let at = 0; at < piece.length; at += pageSize) sink.page(run.block, address + at, piece, at);
      });
    }
    await target.drain();
  }

  #throwIfCancelled(): void {
    if (this.#context.over.aborted) throw new CancelledError();
  }

  #report(phase: string): void {
    const { target, counters, host } = this.#context;
    this.#meter.update(target.transferredBytes, () => ({
      phase,
      totalBytes: this.totalBytes,
      remainingBytes: this.remainingBytes,
      dirtySyncCount: counters.rounds,
      dirtyBytesPerSecond: counters.dirtyPagesPerSecond * host.pageSize,
    }));
  }
}
