import { setTimeout as sleep } from "node:timers/promises";

import {
  encodePostcopyDevices,
  encodePostcopyHead,
  lazyLoadMappedRam,
  type LazyLoadMilestone,
  type LazyLoadOptions,
  type LazyLoadResult,
  type PageSource,
  pagesOfMappedRam,
  resumeLazyLoad,
} from "../engine/index.js";
import { CancelledError, MachineError, throwIfAborted } from "../errors/index.js";
import type { QemuVersion, QmpClient } from "../qmp/index.js";
import {
  type Snapshot,
  type WorkingSetIdentity,
  workingSetIdentity,
  workingSetNumbers,
  workingSetPathOf,
} from "../snapshot/index.js";
import type { MigrationSkeleton } from "../snapshot/migration-skeleton.js";
import { migrationSkeletonOf } from "../snapshot/opened-snapshot.js";
import type { FileState } from "./file-changes.js";
import { LazyCancel } from "./lazy-cancel.js";
import { LazyConnections } from "./lazy-connections.js";
import { didRun, explainRefusal, waitUntilCompleted } from "./lazy-guest.js";
import {
  giveUpMark,
  leaveMark,
  type LazyMark,
  makeMark,
  type MarkContent,
  replaceMark,
  serverName,
  stopServing,
  tidyUp,
} from "./lazy-mark.js";
import type { Monitor } from "./lazy-monitor.js";
import type { LazyGuest, LazyRestoreOptions, LazyRestoreResult, WorkingSetUse } from "./lazy-options.js";
import { contentBytes, pagesOfSnapshot } from "./lazy-pages.js";
import { findState } from "./lazy-state.js";
import { isFilling, mayRunGuest, TO_SEE } from "./lazy-verdict.js";
import {
  keepWorkingSet,
  planWorkingSet,
  prefetchOf,
  recordWorkingSet,
  type WorkingSetPlan,
} from "./lazy-working-set.js";
import {
  applyMigrationSettings,
  formerSettings,
  type MigrationAbilities,
  queryMigrationAbilities,
} from "./migration-settings.js";
import { checkRamBlocks, type QemuRamBlock, queryRamBlocks } from "./qemu-ram.js";
import { expectSameTls, prepareQemuTls } from "./qemu-tls.js";
import { parseVia } from "./via.js";
import { reasonOfDestination } from "./wait-load.js";

const PREEMPT = "postcopy-preempt";
const DEFAULT_PREFETCH_BYTES = 256 << 20;
/** A guest that asks for nothing for so long has its working set. */
const RECORDING_QUIET_MS = 1000;
const RECORDING_MOST_MS = 10_000;
const POLL_MS = 5;
const STILL_WAITS =
  "The guest still waits for a part of its memory: run the same command again when what went wrong is mended";

type QemuRam = ReadonlyMap<string, QemuRamBlock>;

/** What is decided before pages are sent. */
interface Loading {
  readonly version: QemuVersion;
  readonly pages: PageSource;
  readonly preempt: boolean;
  readonly plan: WorkingSetPlan | undefined;
}

/** One lazy restore, from its checks to the last page. */
export class LazyRestore {
  readonly #monitor: Monitor;
  readonly #path: string;
  readonly #file: FileState;
  readonly #snapshot: Snapshot;
  readonly #options: LazyRestoreOptions;
  readonly #identity: WorkingSetIdentity;
  readonly #parts: MigrationSkeleton;
  readonly #connections: LazyConnections;
  readonly #cancel: LazyCancel;
  readonly #startMs = performance.now();
  /** Of target pages with content, what was not sent when it was last said; undefined when nothing was said yet. */
  #remainingBytes: number | undefined;
  #guestMs: number | undefined;
  #resumed = false;
  /** Whether anything can have been sent. */
  #isConnected = false;
  #mark: LazyMark | undefined;
  /** Whether the guest has all of its memory. */
  #hasAll = false;
  /** Ends when the guest is there and that was said; never fails. */
  #guestIsThere: Promise<void> = Promise.resolve();

  /** @param place Where the snapshot is, absolute, and what the file there was before anything was read of it. */
  constructor(
    monitor: Monitor,
    { path, file }: { readonly path: string; readonly file: FileState },
    snapshot: Snapshot,
    options: LazyRestoreOptions,
  ) {
    const { via, tls, qmpPath, signal, onMessage } = options;
    this.#monitor = monitor;
    this.#path = path;
    this.#file = file;
    this.#snapshot = snapshot;
    this.#options = options;
    this.#identity = workingSetIdentity(snapshot);
    this.#parts = migrationSkeletonOf(snapshot);
    this.#cancel = new LazyCancel(signal);
    this.#connections = new LazyConnections({
      monitor,
      via: via === undefined ? undefined : parseVia(via),
      tls,
      qmpPath,
      signal: this.#cancel.signal,
      onMessage,
    });
  }

  async run(): Promise<LazyRestoreResult> {
    const fingerprint = Buffer.from(this.#identity.fingerprint).toString("hex");
    const qmp = await this.#monitor.client({ purpose: "begin" });
    try {
      // Asked together: each answer costs a turn of the QEMU's main loop.
      const [found, ram] = await Promise.all([
        findState(qmp, { fingerprint, path: this.#path, file: this.#file }),
        queryRamBlocks(qmp),
      ]);
      return await (found.kind === "waiting"
        ? this.#start(qmp, ram, fingerprint)
        : this.#resume(qmp, ram, found.mark));
    } finally {
      if (this.#mark !== undefined) stopServing(this.#mark);
      this.#cancel.close();
      this.#connections.close();
    }
  }

  async #start(qmp: QmpClient, ram: QemuRam, fingerprint: string): Promise<LazyRestoreResult> {
    const { file, skeleton } = this.#parts;
    const asked = queryMigrationAbilities(qmp);
    asked.catch(() => undefined);
    // While QEMU looks for the answers. What cannot be loaded so is refused while it is still good for another way.
    const devices = encodePostcopyDevices(file, skeleton);
    const abilities = await asked;
    const pages = this.#openPages(ram);
    const head = encodePostcopyHead(file, skeleton, pages, devices);
    const plan = this.#planWorkingSet();
    const preempt = this.#wantsPreempt(abilities);
    const { tls, via, onMessage, streamOffset: offset = 0 } = this.#options;
    const qemuTls = await prepareQemuTls({
      qmp,
      abilities,
      tls,
      endpoint: "server",
      via: via === undefined ? undefined : parseVia(via),
      onMessage,
    });
    const settings = {
      capabilities: { "postcopy-ram": true, ...(preempt ? { [PREEMPT]: true } : {}) },
      parameters: qemuTls.parameters,
    };
    const former = formerSettings(abilities, settings);
    const mark = this.#newMark({ fingerprint, offset, former, tlsObject: qemuTls.objectId });
    await leaveMark(qmp, mark).catch(async (error: unknown) => {
      await qemuTls.remove();
      throw error;
    });
    return await this.#orCleanUp(mark, async () => {
      await applyMigrationSettings(qmp, abilities, settings).catch(explainRefusal);
      await this.#tellWhatGuestDoes(qmp);
      const channels = await this.#connections.listen();
      this.#isConnected = true;
      const loading: Loading = { version: qmp.version, pages, preempt, plan };
      const loaded = await lazyLoadMappedRam(file, skeleton, channels, {
        ...this.#loadOptions(loading),
        head,
        onMilestone: (milestone: LazyLoadMilestone) => {
          if (milestone === "package-sent") this.#cancel.packageSent();
          if (milestone === "devices-loaded") this.#watchGuest(qmp, pages);
        },
      });
      return this.#finish(loaded, mark, loading);
    });
  }

  async #resume(qmp: QmpClient, ram: QemuRam, left: LazyMark): Promise<LazyRestoreResult> {
    const { onMessage } = this.#options;
    onMessage?.(`The guest waits for pages of ${this.#path}: going on where ${serverName(left)} stopped`);
    this.#resumed = true;
    const abilities = await queryMigrationAbilities(qmp);
    const pages = this.#openPages(ram);
    const preempt = abilities.capabilities.get(PREEMPT) === true;
    expectSameTls(abilities, this.#options.tls);
    const mark = this.#newMark(left);
    await replaceMark(qmp, mark);
    return this.#orCleanUp(mark, async () => {
      const loading: Loading = { version: qmp.version, pages, preempt, plan: undefined };
      const channels = await this.#connections.recover();
      if (channels === "completed") return this.#finish(undefined, mark, loading);
      const { file, skeleton } = this.#parts;
      const loaded = resumeLazyLoad(file, skeleton, channels, this.#loadOptions(loading));
      // Served first: the monitor may not answer before the page has come that it waits for itself.
      this.#watchGuest(qmp, pages);
      return this.#finish(await loaded, mark, loading);
    });
  }

  #newMark(content: Omit<MarkContent, "path" | "file">): LazyMark {
    const { fingerprint, offset, former, tlsObject } = content;
    const place = { path: this.#path, file: this.#file };
    const mark = makeMark({ fingerprint, ...place, offset, tlsObject, former });
    this.#mark = mark;
    return mark;
  }

  #openPages(ram: QemuRam): PageSource {
    checkRamBlocks(this.#snapshot, ram);
    const hostPageSizeOf = (block: string): number | undefined => ram.get(block)?.hostPageSize;
    const { file, skeleton } = this.#parts;
    return this.#snapshot.format === "mapped-ram"
      ? pagesOfMappedRam(file, skeleton, hostPageSizeOf)
      : pagesOfSnapshot(this.#snapshot, hostPageSizeOf);
  }

  #planWorkingSet(): WorkingSetPlan | undefined {
    const { workingSet, prefetch, onMessage } = this.#options;
    if (prefetch === "off") return undefined;
    const chosen = workingSet !== undefined;
    return planWorkingSet(workingSet ?? workingSetPathOf(this.#path), chosen, this.#identity, onMessage);
  }

  #wantsPreempt({ capabilities }: MigrationAbilities): boolean {
    const { preempt = "auto" } = this.#options;
    if (preempt === "auto") return capabilities.has(PREEMPT);
    if (preempt === "on" && !capabilities.has(PREEMPT)) {
      throw new MachineError("not-capable", "This QEMU has no postcopy-preempt: it is older than 7.1", {
        hint: "leave --preempt out",
      });
    }
    return preempt === "on";
  }

  /** Before the load these two only say what happens after it. RUN itself starts any guest, whatever it did. */
  async #tellWhatGuestDoes(qmp: QmpClient): Promise<void> {
    const { then } = this.#options;
    if (then === "run") await qmp.execute("cont");
    else if (then === "pause" || !didRun(this.#snapshot)) await qmp.execute("stop");
  }

  #loadOptions({ version, pages, preempt, plan }: Loading): LazyLoadOptions {
    const { clusterBytes, fillBytesPerSecond, prefetch = "before", prefetchBytes } = this.#options;
    const { recordMs = RECORDING_MOST_MS, onProgress } = this.#options;
    const when = prefetch === "before" ? "before-run" : "after-run";
    const known = plan?.known;
    return {
      pages,
      ...(clusterBytes === undefined ? {} : { clusterBytes }),
      signal: this.#cancel.signal,
      ...(known === undefined
        ? {}
        : { prefetch: prefetchOf(known, when, prefetchBytes ?? DEFAULT_PREFETCH_BYTES) }),
      ...(preempt ? { preempt: { connect: this.#connections.open, early: version.major < 8 } } : {}),
      // Without a second channel, newer ones may ask for a zero page when the end is on its way already.
      zeroPagesWhenAsked: preempt || version.major < 10 || (version.major === 10 && version.minor <= 1),
      ...(fillBytesPerSecond === undefined ? {} : { fillBytesPerSecond: () => fillBytesPerSecond }),
      ...(plan === undefined || known !== undefined
        ? {}
        : { recording: { quietMs: RECORDING_QUIET_MS, mostMs: recordMs } }),
      onProgress: (progress) => {
        this.#remainingBytes = progress.remainingBytes ?? 0;
        onProgress?.(progress);
      },
      reconnect: (reason) => this.#reconnect(reason),
    };
  }

  async #reconnect(reason: Error): ReturnType<LazyConnections["recover"]> {
    const { onMessage } = this.#options;
    // A QEMU that could not load the devices has closed the connection too, and says why on its monitor.
    if (this.#guestMs === undefined) {
      const word = await reasonOfDestination(
        await this.#monitor.client({ purpose: "hear why it broke off" }),
        reason,
        2,
      );
      if (word !== reason) throw word;
    }
    onMessage?.(`The connection to QEMU broke (${reason.message}): taking it up again`);
    const channels = await this.#connections.recover();
    if (channels !== "completed") onMessage?.("The connection to QEMU stands again");
    if (this.#guestMs !== undefined) await this.#monitor.release();
    return channels;
  }

  /** Says when the guest is there. The monitor answers when the pages have come that it may wait for itself. */
  #watchGuest(qmp: QmpClient, pages: PageSource): void {
    const { onGuest } = this.#options;
    const { signal } = this.#cancel;
    const watch = async (): Promise<void> => {
      let guest: LazyGuest["guest"] | undefined;
      while (guest === undefined) {
        throwIfAborted(signal);
        const { status, running } = await qmp.execute("query-status");
        if (status !== "inmigrate") guest = running ? "running" : "paused";
        else await sleep(POLL_MS);
      }
      this.#guestMs = performance.now() - this.#startMs;
      await this.#monitor.release();
      // Until it is known what the guest has, it is all of it.
      const remainingBytes = this.#remainingBytes ?? contentBytes(pages);
      onGuest?.({ guest, elapsedMs: this.#guestMs, remainingBytes });
    };
    // Whatever is wrong with the QEMU, the load hears of it too.
    this.#guestIsThere = watch()
      .catch(() => undefined)
      .then(() => this.#cancel.guestDecided());
  }

  async #finish(
    loaded: LazyLoadResult | undefined,
    mark: LazyMark,
    { preempt, plan }: Loading,
  ): Promise<LazyRestoreResult> {
    this.#hasAll = true;
    await this.#guestIsThere;
    const { signal } = this.#cancel;
    const purpose = "put the migration settings back, now that the guest has all of its memory";
    const qmp = await this.#monitor.client({ purpose, signal });
    await waitUntilCompleted(qmp, signal);
    const { running } = await qmp.execute("query-status");
    await tidyUp(qmp, mark);
    const totalTimeMs = performance.now() - this.#startMs;
    const workingSet =
      plan === undefined || loaded === undefined ? undefined : await this.#keep(plan, loaded);
    const { configuration, totalBytes } = this.#snapshot;
    return {
      mode: "lazy",
      resumed: this.#resumed,
      machine: configuration.machine,
      ramBytes: totalBytes,
      guest: running ? "running" : "paused",
      preempt,
      ...(this.#guestMs === undefined || this.#resumed ? {} : { guestMs: this.#guestMs }),
      totalTimeMs,
      ...(workingSet === undefined ? {} : { workingSet }),
      ...(loaded === undefined ? {} : { statistics: loaded.statistics }),
    };
  }

  async #keep(plan: WorkingSetPlan, { requested }: LazyLoadResult): Promise<WorkingSetUse> {
    const { path, known } = plan;
    if (known !== undefined) return { path, use: "read-ahead", pages: workingSetNumbers(known).pages };
    const set = recordWorkingSet(this.#identity, requested);
    const isKept = await keepWorkingSet(set, path, this.#options.onMessage);
    return { path, use: isKept ? "recorded" : "not-recorded", pages: workingSetNumbers(set).pages };
  }

  /**
   * Cleans up after a failure where the QEMU is of no use any more, or has not heard of this. Where its guest waits for
   * pages, everything stays: the next one who takes it up needs it.
   */
  async #orCleanUp(mark: LazyMark, work: () => Promise<LazyRestoreResult>): Promise<LazyRestoreResult> {
    try {
      return await work();
    } catch (error) {
      if (this.#hasAll) {
        const qmp = await this.#monitor.client(TO_SEE).catch(() => undefined);
        if (qmp !== undefined) await tidyUp(qmp, mark);
        throw error;
      }
      if (
        this.#guestMs !== undefined ||
        this.#resumed ||
        (this.#isConnected && (await mayRunGuest(this.#monitor)))
      ) {
        // A process that lives on does not serve all the same.
        const qmp = await this.#monitor.client(TO_SEE).catch(() => undefined);
        if (qmp !== undefined) await giveUpMark(qmp, mark);
        if (!(error instanceof CancelledError)) {
          if (await isFilling(this.#monitor)) this.#options.onMessage?.(STILL_WAITS);
          throw error;
        }
        throw new CancelledError(
          "The restore was broken off: the guest waits for its memory until the same command is run again",
          error,
        );
      }
      const qmp = await this.#monitor.client(TO_SEE).catch(() => undefined);
      if (qmp === undefined) throw error;
      const reason = await reasonOfDestination(qmp, error);
      await tidyUp(qmp, mark);
      throw reason;
    }
  }
}
