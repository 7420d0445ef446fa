import type { RandomAccessSource } from "../../../channels/index.js";
import { asError } from "../../../errors/as-error.js";
import { CancelledError, throwIfAborted } from "../../../errors/index.js";
import { type Clock, systemClock } from "../../clock.js";
import type { MappedRamFile } from "../../mapped-ram/open.js";
import { PostcopyPing } from "../../postcopy/pings.js";
import { type ProgressListener, ProgressMeter } from "../../progress.js";
import { PostcopyConnection, type PostcopyChannels, type PreemptChannel } from "./connection.js";
import { type HostPageSizeOf, pagesOfMappedRam } from "./file-pages.js";
import { PageServer } from "./page-server.js";
import type { PageSource } from "./page-source.js";
import {
  encodeDiscard,
  encodePingBeforePackage,
  encodePostcopyHead,
  type PostcopyHead,
} from "./postcopy-head.js";
import type { PageServerStatistics } from "./postcopy-statistics.js";
import { namedRun, type NamedPageRun, type Prefetch, prefetchRuns } from "./prefetch.js";
import type { RecordingLimits } from "./recording-window.js";
import { recoverPostcopy } from "./recover.js";

/**
 * What has happened, in this order:
 *
 * - `package-sent`: the system has all of the device state, and the destination may ask for pages.
 * - `devices-loaded`: the destination has loaded the devices (its PONG 3). It starts the processors next, unless it was told
 *   to wait (`-S`): nothing on the wire says when it has.
 * - `all-sent`: every page with content, and the end of the stream, are on their way.
 * - `completed`: the destination says that it has everything, and needs nothing of this side any more.
 */
export type LazyLoadMilestone = "package-sent" | "devices-loaded" | "all-sent" | "completed";

/** How to load lazily. */
export interface LazyLoadOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** Called once for each milestone; milliseconds since the beginning. */
  readonly onMilestone?: (milestone: LazyLoadMilestone, elapsedMs: number) => void;
  /**
   * Host page size of each block at the destination, in bytes: a block in huge pages (hugetlbfs) has theirs. Both sides
   * must agree on it.
   */
  readonly hostPageSizeOf?: HostPageSizeOf;
  /**
   * Where the pages are, with their host page sizes, when they are not at the places that the skeleton's blocks have: those
   * of a stream, for example. Blocks are in the skeleton's order.
   */
  readonly pages?: PageSource;
  /** Guest memory that goes with a page that is asked for, in bytes; default 64 KiB, 0 for that page alone. */
  readonly clusterBytes?: number;
  /**
   * What goes out at once when nothing is asked for, in bytes; default 128 KiB, and 256 KiB where nothing that is asked for
   * waits behind it, because it has a channel of its own.
   */
  readonly sliceBytes?: number;
  /** Bytes a second of pages that nobody asked for; asked anew all the time, 0 for no limit. */
  readonly fillBytesPerSecond?: () => number;
  readonly prefetch?: Prefetch;
  /**
   * Whether zero pages are sent only when they are asked for, which is quicker for a guest with much free memory. Without a
   * preempt channel it is safe with QEMU 10.1 and older alone: a newer one may ask when the end is on its way, and then
   * waits for ever. Default: with a preempt channel yes, without one no.
   */
  readonly zeroPagesWhenAsked?: boolean;
  /** How many requests are kept in order; default 131072. */
  readonly mostRecorded?: number;
  /**
   * Sends each page that is asked for alone at first, and no others, so that {@link LazyLoadResult.requested} is all that
   * the guest used meanwhile: for a working set.
   */
  readonly recording?: RecordingLimits;
  /** What `encodePostcopyHead` made of the same file and pages, where that was done before. */
  readonly head?: PostcopyHead;
  /**
   * A second connection to the destination, whose `postcopy-preempt` capability is on. It is made again in each recovery.
   */
  readonly preempt?: PreemptChannel;
  /**
   * Makes another connection when one broke after the package was sent; then the destination usually waits
   * (`postcopy-paused`) for `migrate-recover`. `completed` says that it had everything already. What it throws, the load
   * fails with. Without it, a broken connection ends the load.
   *
   * @param reason Why the connection before failed.
   */
  readonly reconnect?: (reason: Error) => Promise<PostcopyChannels | "completed">;
  readonly clock?: Clock;
}

/** How a lazy load went. */
export interface LazyLoadResult {
  readonly statistics: PageServerStatistics;
  /** Milliseconds from the beginning to each milestone that this process saw. */
  readonly milestones: Readonly<Partial<Record<LazyLoadMilestone, number>>>;
  /** What the destination asked for, in order, as host pages; the first `mostRecorded` requests. */
  readonly requested: readonly NamedPageRun[];
}

/**
 * Loads a mapped-ram file into a QEMU that waits with `postcopy-ram` on, so that its guest runs at once: this side is a
 * postcopy source whose guest stood still. It ends when the destination has all of the guest's memory; until then the file
 * must stay as it is.
 *
 * When it fails, or is cancelled, all channels are closed; a destination that runs the guest already keeps it, paused where
 * pages are missing, and {@link resumeLazyLoad} can go on.
 *
 * @param channels A connection to the destination on which nothing was sent.
 * @throws FormatError for a damaged file, or one that cannot be loaded by postcopy, before anything is sent; MachineError
 *   `migration-failed` when the destination refuses, `connection-closed` when a connection broke for good; UsageError;
 *   CancelledError.
 */
export async function lazyLoadMappedRam(
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  channels: PostcopyChannels,
  options: LazyLoadOptions = {},
): Promise<LazyLoadResult> {
  return await new LazyLoad(file, skeleton, options).run(channels, "start");
}

/**
 * Goes on with a lazy load that stopped, be it in another process: the destination is `postcopy-paused`, and waits for this
 * connection by `migrate-recover`. It says itself what it has.
 *
 * @throws As {@link lazyLoadMappedRam}.
 */
export async function resumeLazyLoad(
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  channels: PostcopyChannels,
  options: Omit<LazyLoadOptions, "prefetch"> = {},
): Promise<LazyLoadResult> {
  return await new LazyLoad(file, skeleton, options).run(channels, "recover");
}

const SLICE_BYTES = 128 << 10;
const SLICE_BYTES_BESIDE_PREEMPT = 256 << 10;
/** Longer than a guest takes to use the few thousand pages that it was given in front; short beside what the fill takes. */
const HEAD_START_MS = 250;

class LazyLoad {
  readonly #options: LazyLoadOptions;
  readonly #source: PageSource;
  readonly #server: PageServer;
  readonly #head: PostcopyHead;
  readonly #totalBytes: number;
  readonly #meter: ProgressMeter;
  readonly #milestones = new Map<LazyLoadMilestone, number>();
  readonly #clock: Clock;
  readonly #startMs: number;

  constructor(file: RandomAccessSource, skeleton: MappedRamFile, options: LazyLoadOptions) {
    const { clusterBytes, sliceBytes, fillBytesPerSecond, mostRecorded, zeroPagesWhenAsked, recording } =
      options;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#startMs = this.#clock.now();
    this.#source = options.pages ?? pagesOfMappedRam(file, skeleton, options.hostPageSizeOf);
    this.#head = options.head ?? encodePostcopyHead(file, skeleton, this.#source);
    this.#totalBytes = skeleton.totalBytes;
    this.#meter = new ProgressMeter(options.onProgress);
    this.#server = new PageServer(this.#source, {
      ramId: skeleton.ram.id,
      footers: skeleton.footers,
      clock: this.#clock,
      ...(clusterBytes === undefined ? {} : { clusterBytes }),
      sliceBytes: sliceBytes ?? (options.preempt === undefined ? SLICE_BYTES : SLICE_BYTES_BESIDE_PREEMPT),
      ...(fillBytesPerSecond === undefined ? {} : { fillBytesPerSecond }),
      ...(zeroPagesWhenAsked === undefined ? {} : { zeroPagesWhenAsked }),
      ...(mostRecorded === undefined ? {} : { mostRecorded }),
      ...(recording === undefined ? {} : { recording }),
      ...(options.prefetch?.when === "before-run" ? { headStartMs: HEAD_START_MS } : {}),
      onSent: () => this.#showProgress(),
      onAllSent: () => this.#reach("all-sent"),
    });
  }

  async run(channels: PostcopyChannels, first: "start" | "recover"): Promise<LazyLoadResult> {
    let next: PostcopyChannels | "completed" = channels;
    for (let begin = first; next !== "completed"; begin = "recover") {
      const failed = await this.#useConnection(next, begin);
      if (failed === undefined) break;
      const { reconnect, signal } = this.#options;
      throwIfAborted(signal);
      const { reason, isBroken } = failed;
      // Before it has the package, a destination cannot run the guest, and gives up.
      const mayRun = begin === "recover" || this.#milestones.has("package-sent");
      if (reconnect === undefined || !isBroken || !mayRun) throw reason;
      this.#server.beginRecovery();
      next = await reconnect(reason);
    }
    this.#reach("completed");
    return {
      statistics: this.#server.statistics,
      milestones: Object.fromEntries(this.#milestones),
      requested: this.#server.recordedRequests.map((place) => namedRun(this.#source, place)),
    };
  }

  /** @returns Why the connection failed; undefined when the destination has everything. */
  async #useConnection(
    channels: PostcopyChannels,
    begin: "start" | "recover",
  ): Promise<{ readonly reason: Error; readonly isBroken: boolean } | undefined> {
    const { signal, preempt } = this.#options;
    const connection = new PostcopyConnection(channels, this.#source, this.#server.request, this.#clock);
    const abort = (): void => connection.fail(new CancelledError(undefined, signal?.reason));
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted === true) abort();
    try {
      if (begin === "start") await this.#start(connection);
      else await recoverPostcopy(connection, this.#server, this.#source, preempt);
      this.#watchDevices(connection, begin);
      await this.#server.serve(connection, begin === "recover");
      return undefined;
    } catch (error) {
      // What failed first is the reason: all else follows from the closing of the channels.
      connection.fail(asError(error));
      return { reason: connection.failure ?? asError(error), isBroken: connection.isBroken };
    } finally {
      signal?.removeEventListener("abort", abort);
      connection.close();
    }
  }

  async #start(connection: PostcopyConnection): Promise<void> {
    const { preempt, prefetch } = this.#options;
    const { sent } = this.#server;
    const runs = prefetch === undefined ? [] : prefetchRuns(this.#source, sent, prefetch);
    await connection.write(this.#head.start);
    await connection.write(encodeDiscard(this.#source));
    const openPreempt = async (channel: PreemptChannel): Promise<void> =>
      connection.openPreempt(channel, connection.pong(PostcopyPing.RETURN_PATH));
    // One that reads nothing before it has both would not take these pages either.
    if (preempt?.early === true) await openPreempt(preempt);
    if (prefetch?.when === "before-run") await this.#server.sendBeforeRun(connection, runs);
    await connection.write(this.#head.betweenRam);
    if (preempt !== undefined && preempt.early !== true) await openPreempt(preempt);
    await connection.write(encodePingBeforePackage());
    // The package is loaded by the thread that accepts connections: a channel that it has not taken by then, it never will.
    if (preempt !== undefined) await connection.pong(PostcopyPing.BEFORE_PACKAGE);
    await connection.write(this.#head.package);
    this.#reach("package-sent");
    if (prefetch?.when === "after-run") this.#server.prefer(runs);
  }

  #watchDevices(connection: PostcopyConnection, begin: "start" | "recover"): void {
    if (begin === "recover") {
      // Only a destination that had loaded them waits for a recovery.
      if (this.#milestones.has("package-sent")) this.#reach("devices-loaded");
      return;
    }
    connection.pong(PostcopyPing.DEVICES_LOADED).then(
      () => this.#reach("devices-loaded"),
      () => undefined,
    );
  }

  #reach(milestone: LazyLoadMilestone): void {
    if (this.#milestones.has(milestone)) return;
    const elapsedMs = this.#clock.now() - this.#startMs;
    this.#milestones.set(milestone, elapsedMs);
    this.#options.onMilestone?.(milestone, elapsedMs);
  }

  #showProgress(): void {
    this.#meter.update(this.#server.sentBytes, () => ({
      phase: "loading",
      totalBytes: this.#totalBytes,
      remainingBytes: this.#server.remainingBytes,
    }));
  }
}
