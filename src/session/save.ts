import path from "node:path";

import type { TlsCredentials } from "../channels/index.js";
import { MachineError, throwIfAborted, UsageError } from "../errors/index.js";
import { MAPPED_RAM_CAPABILITY, type ProgressListener } from "../engine/index.js";
import type { MigrationInfo, QmpClient } from "../qmp/index.js";
import { ConvergenceWatch } from "./convergence.js";
import { type MigrationAbilities, queryMigrationAbilities } from "./migration-settings.js";
import type { WrittenSnapshot } from "./receive.js";
import {
  checkMultifdOptions,
  type MultifdCompressionOptions,
  packetCompressionOf,
} from "./multifd-options.js";
import { checkTls } from "./qemu-tls.js";
import type { SavedByMethod, SaveJob, SaveMethodName, ZeroPageDetectionName } from "./save-method.js";
import { OutputOutOfReachError, saveByMappedRam } from "./save-native.js";
import { saveByStream } from "./save-stream.js";
import { parseVia, type SocketUri } from "./via.js";
import { readMark, serverName } from "./lazy-mark.js";
import { isUnderWay } from "./wait-migration.js";

/** How to save a VM. */
export interface SaveOptions extends MultifdCompressionOptions {
  /** Keep the guest running until the switch-over; the default stops it first. */
  readonly live?: boolean;
  /** Let the guest run again afterwards, if it ran before. */
  readonly resume?: boolean;
  /** The default takes mapped-ram where the QEMU has it. */
  readonly method?: SaveMethodName | "auto";
  /**
   * multifd channels: with the mapped-ram method QEMU's threads, where 1 is none; with the stream method connections for the
   * pages, 1 to 255.
   */
  readonly channels?: number;
  /** QEMU 9.0 and newer: where it looks for zero pages. The default is what it is set to. */
  readonly zeroPageDetection?: ZeroPageDetectionName;
  /** Lets QEMU write pages past the page cache (mapped-ram method, QEMU 9.1 and newer). */
  readonly directIo?: boolean;
  /** Live only: seconds after which a guest that does not converge is stopped. The default is 60 after the first pass. */
  readonly stopAfterSeconds?: number;
  /** Bytes a second that QEMU may write; the default is no limit. */
  readonly maxBandwidth?: number;
  /** Stream method: where ramport listens (`unix:PATH`, `tcp:HOST:PORT`), when QEMU cannot reach a private socket. */
  readonly via?: string;
  /**
   * Stream method: TLS on that socket, with QEMU and ramport reading the same files. Credentials that the QEMU is set to use already
   * (`tls-creds`) stay in use on its side.
   */
  readonly tls?: TlsCredentials;
  /** Path of the QMP socket, when there is one: its owner is taken for QEMU's user. */
  readonly qmpPath?: string;
  /** Replace an existing file. */
  readonly replace?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** Called with a sentence for the user when something noteworthy happens. */
  readonly onMessage?: (message: string) => void;
}

/** A VM that was saved. Sizes are in bytes, times in milliseconds. */
export interface SaveResult extends Omit<WrittenSnapshot, "receivedBytes"> {
  readonly method: SaveMethodName;
  /** What the guest does now. */
  readonly guest: "running" | "stopped";
  /** Whether a live save had to stop the guest to come to its end. */
  readonly stoppedToConverge: boolean;
  readonly totalTimeMs?: number;
  /** How long the guest stood still for the switch-over of a live save. */
  readonly downtimeMs?: number;
}

/**
 * Saves the VM behind a QMP connection into a mapped-ram file.
 *
 * If anything fails or the signal fires, the migration is cancelled, the guest runs on if it ran before, QEMU's migration
 * settings are as they were, and there is no file. A file that has its name is whole and stays, even if letting the guest run again
 * fails.
 *
 * @throws UsageError; MachineError; FormatError when the stream is not what it should be; CancelledError.
 */
export async function saveVm(
  qmp: QmpClient,
  outputPath: string,
  options: SaveOptions = {},
): Promise<SaveResult> {
  throwIfAborted(options.signal);
  const via = options.via === undefined ? undefined : parseVia(options.via);
  checkMultifdOptions(options);
  checkOptions(options);
  checkTls(options.tls, "server");
  const guest = await qmp.execute("query-status");
  if (guest.status === "inmigrate") {
    throw new MachineError(
      "not-capable",
      "This QEMU waits for an incoming migration: it has no guest to save yet",
    );
  }
  if (guest.status === "postmigrate") {
    throw new MachineError(
      "not-capable",
      "This guest was stopped by an earlier save or migration and has not run since",
      {
        hint: "QEMU saves it again only after cont",
      },
    );
  }
  await checkNoMigration(qmp);
  const abilities = await queryMigrationAbilities(qmp);
  const methods = chooseMethods(abilities, options);
  const live = options.live ?? false;
  const watch = live ? new ConvergenceWatch(qmp, options) : undefined;
  try {
    if (!live && guest.running) await qmp.execute("stop");
    const job = makeJob(qmp, abilities, path.resolve(outputPath), via, options, async (info) =>
      watch?.observe(info),
    );
    const { method, saved } = await saveByFirstPossible(job, methods, options.onMessage);
    const endMs = performance.now();
    const runAgain = options.resume === true && guest.running;
    if (runAgain) await qmp.execute("cont");
    const { "total-time": totalTimeMs } = saved.info;
    // QEMU counts from its own switch-over: a guest that was stopped before stood still for longer.
    const stoppedMs = watch?.stoppedMs;
    const downtimeMs = stoppedMs === undefined ? saved.info.downtime : endMs - stoppedMs;
    return {
      ...saved.snapshot,
      method,
      guest: runAgain ? "running" : "stopped",
      stoppedToConverge: stoppedMs !== undefined,
      ...(totalTimeMs === undefined ? {} : { totalTimeMs }),
      ...(downtimeMs === undefined || !live ? {} : { downtimeMs }),
    };
  } catch (error) {
    throw await letGuestGoOn(qmp, guest.running, error);
  }
}

/**
 * A migration that is begun while memory still comes in fails, and QEMU then takes no other one until it has all of it.
 *
 * @throws MachineError `not-capable` when a migration goes on, in either direction.
 */
async function checkNoMigration(qmp: QmpClient): Promise<void> {
  const { status } = await qmp.execute("query-migrate");
  if (!isUnderWay(status)) return;
  const mark = status?.startsWith("postcopy") === true ? await readMark(qmp) : undefined;
  if (mark === undefined) {
    throw new MachineError("not-capable", "This QEMU is migrating already", {
      hint: "wait for its end, or cancel it",
    });
  }
  throw new MachineError(
    "not-capable",
    `This guest was restored lazily and still waits for pages of ${mark.path}: it cannot be saved before it has all of them`,
    {
      hint:
        status === "postcopy-paused"
          ? "nobody serves it now: run the same ramport restore --lazy again"
          : `${serverName(mark)} sends them; query-migrate says completed when it is done`,
    },
  );
}

function checkOptions({
  method = "auto",
  directIo = false,
  multifdCompression = "none",
  via,
  tls,
  live,
  stopAfterSeconds,
}: SaveOptions): void {
  const needsMapped = method === "mapped-ram" || directIo;
  if (needsMapped && (via !== undefined || tls !== undefined)) {
    throw new UsageError(
      "With the mapped-ram method or direct I/O, QEMU writes the file itself and travels nowhere",
      {
        hint: `leave ${via === undefined ? "the TLS options" : "--via"} out, or use --method stream`,
      },
    );
  }
  if (multifdCompression !== "none" && needsMapped) {
    throw new UsageError("QEMU compresses only what travels over the channels of the stream method", {
      hint: "use --method stream, or leave the compression out",
    });
  }
  if (stopAfterSeconds !== undefined && live !== true) {
    throw new UsageError("Only a live save has a guest to stop after a time", { hint: "add --live" });
  }
}

function chooseMethods(abilities: MigrationAbilities, options: SaveOptions): readonly SaveMethodName[] {
  const { method = "auto", directIo = false, via, tls, multifdCompression = "none" } = options;
  const canMap = abilities.capabilities.has(MAPPED_RAM_CAPABILITY);
  if (method === "mapped-ram" && !canMap) {
    throw new MachineError(
      "not-capable",
      "This QEMU cannot write mapped-ram files itself: it is older than 9.0",
      {
        hint: "use --method stream",
      },
    );
  }
  if (method !== "auto") return [method];
  if (directIo) return ["mapped-ram"];
  if (multifdCompression !== "none") return ["stream"];
  return canMap && via === undefined && tls === undefined ? ["mapped-ram", "stream"] : ["stream"];
}

function makeJob(
  qmp: QmpClient,
  abilities: MigrationAbilities,
  outputPath: string,
  via: SocketUri | undefined,
  options: SaveOptions,
  onInfo: (info: MigrationInfo) => Promise<void>,
): SaveJob {
  return {
    qmp,
    abilities,
    outputPath,
    onInfo,
    live: options.live ?? false,
    replace: options.replace ?? false,
    channels: options.channels,
    directIo: options.directIo ?? false,
    compression: packetCompressionOf(options),
    zeroPageDetection: options.zeroPageDetection,
    maxBandwidth: options.maxBandwidth ?? 0,
    qmpPath: options.qmpPath,
    via,
    tls: options.tls,
    signal: options.signal,
    onProgress: options.onProgress,
    onMessage: options.onMessage,
  };
}

/** The first method; the next one where QEMU has no way to the file but a socket may do. */
async function saveByFirstPossible(
  job: SaveJob,
  methods: readonly SaveMethodName[],
  onMessage: ((message: string) => void) | undefined,
): Promise<{ method: SaveMethodName; saved: SavedByMethod }> {
  const [method = "stream", ...others] = methods;
  try {
    return { method, saved: await (method === "mapped-ram" ? saveByMappedRam(job) : saveByStream(job)) };
  } catch (error) {
    if (!(error instanceof OutputOutOfReachError) || others.length === 0) throw error;
    onMessage?.(`${error.message}; taking the stream method instead`);
    return saveByFirstPossible(job, others, onMessage);
  }
}

/** After a failure, when the migration has ended: a guest that ran runs. Returns the error to report. */
async function letGuestGoOn(qmp: QmpClient, ranBefore: boolean, error: unknown): Promise<unknown> {
  try {
    if (ranBefore && !(await qmp.execute("query-status")).running) await qmp.execute("cont");
    return error;
  } catch (gone) {
    if (!(error instanceof MachineError) || error.code !== "connection-closed") return error;
    const hint =
      "if the QEMU still runs, its guest may be stopped and its migration going on: see query-status and query-migrate";
    return new MachineError(error.code, error.message, { hint }, gone);
  }
}
