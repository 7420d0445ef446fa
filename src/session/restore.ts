import { type DirectIo, ReadableFile, type TlsCredentials } from "../channels/index.js";
import { MachineError, throwIfAborted, UsageError } from "../errors/index.js";
import {
  checkPageBitmaps,
  MAPPED_RAM_CAPABILITY,
  openMappedRam,
  type ProgressListener,
  readMappedRamTail,
} from "../engine/index.js";
import type { QmpClient } from "../qmp/index.js";
import { type MigrationAbilities, queryMigrationAbilities } from "./migration-settings.js";
import { checkTls } from "./qemu-tls.js";
import {
  checkMultifdOptions,
  type MultifdCompressionOptions,
  packetCompressionOf,
} from "./multifd-options.js";
import type { RestoreJob, RestoreMethodName } from "./restore-method.js";
import { restoreByMappedRam } from "./restore-native.js";
import { restoreBySending } from "./restore-send.js";
import { parseVia } from "./via.js";

/** How to restore a VM. */
export interface RestoreOptions extends MultifdCompressionOptions {
  /** What the guest does afterwards; the default is what it did when it was saved. */
  readonly then?: "run" | "pause";
  /** The default takes mapped-ram where the QEMU has it. */
  readonly method?: RestoreMethodName | "auto";
  /**
   * multifd channels: with the mapped-ram method QEMU's threads, where 1 is none; with the send method connections for the
   * pages, 1 to 255.
   */
  readonly channels?: number;
  /** Whether the file is read past the page cache; `auto`: where its file system can. Default false. */
  readonly directIo?: boolean | "auto";
  /** Where the stream starts in the file, in bytes. */
  readonly streamOffset?: number;
  /** Send method: where QEMU listens (`unix:PATH`, `tcp:HOST:PORT`), when a private socket will not do. */
  readonly via?: string;
  /**
   * Send method: TLS on that socket, with QEMU and ramport reading the same files. Credentials that the QEMU is set to use already
   * (`tls-creds`) stay in use on its side.
   */
  readonly tls?: TlsCredentials;
  readonly qmpPath?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  /** Called with a sentence for the user when something noteworthy happens. */
  readonly onMessage?: (message: string) => void;
}

/** A VM that was restored. */
export interface RestoreResult {
  readonly method: RestoreMethodName;
  readonly machine: string;
  readonly ramBytes: number;
  readonly guest: "running" | "paused";
  readonly totalTimeMs: number;
}

/**
 * Loads a mapped-ram file into a QEMU that was started with `-incoming defer`, and returns when the guest runs, or is
 * loaded and paused.
 *
 * The file's structure is checked before QEMU hears of it: some QEMUs crash on damaged files.
 *
 * @throws FormatError for a damaged file; MachineError when the QEMU does not wait for a migration or cannot load this
 *   one; CancelledError: a QEMU whose load was cut short is of no use any more and has to be started anew.
 */
export async function restoreVm(
  qmp: QmpClient,
  path: string,
  options: RestoreOptions = {},
): Promise<RestoreResult> {
  const startMs = performance.now();
  throwIfAborted(options.signal);
  checkMultifdOptions(options);
  const via = options.via === undefined ? undefined : parseVia(options.via);
  checkTls(options.tls, "client");
  const file = ReadableFile.open(path, { directIo: asDirectIo(options.directIo) });
  try {
    const skeleton = openMappedRam(file, options.streamOffset ?? 0);
    checkPageBitmaps(file, skeleton.blocks);
    readMappedRamTail(file, skeleton);
    const { status } = await qmp.execute("query-status");
    if (status !== "inmigrate") {
      throw new MachineError(
        "not-capable",
        `This QEMU does not wait for a migration: its guest is ${status}`,
        {
          hint: "start it with -incoming defer",
        },
      );
    }
    const abilities = await queryMigrationAbilities(qmp);
    const method = chooseMethod(abilities, options);
    // Before the load these two only say what happens after it.
    if (options.then !== undefined) await qmp.execute(options.then === "run" ? "cont" : "stop");
    const job: RestoreJob = {
      qmp,
      abilities,
      file,
      skeleton,
      channels: options.channels,
      compression: packetCompressionOf(options),
      directIo: file.isDirect,
      qmpPath: options.qmpPath,
      via,
      tls: options.tls,
      signal: options.signal,
      onProgress: options.onProgress,
      onMessage: options.onMessage,
    };
    await (method === "mapped-ram" ? restoreByMappedRam(job) : restoreBySending(job));
    if (options.then === "run") await qmp.execute("cont");
    const guest = (await qmp.execute("query-status")).running ? "running" : "paused";
    const { machine } = skeleton.configuration;
    return {
      method,
      machine,
      ramBytes: skeleton.totalBytes,
      guest,
      totalTimeMs: performance.now() - startMs,
    };
  } finally {
    file.close();
  }
}

function asDirectIo(wanted: boolean | "auto" = false): DirectIo {
  if (wanted === "auto") return "auto";
  return wanted ? "required" : "off";
}

function chooseMethod(abilities: MigrationAbilities, options: RestoreOptions): RestoreMethodName {
  const { method = "auto", via, tls, multifdCompression = "none" } = options;
  const canMap = abilities.capabilities.has(MAPPED_RAM_CAPABILITY);
  if (method === "mapped-ram" && !canMap) {
    const message = "This QEMU cannot load mapped-ram files itself: it is older than 9.0";
    throw new MachineError("not-capable", message, { hint: "use --method send" });
  }
  const travels = via !== undefined || tls !== undefined || multifdCompression !== "none";
  if (travels && method === "mapped-ram") {
    throw new UsageError("With the mapped-ram method QEMU reads the file itself and nothing travels", {
      hint: "leave --via, --multifd-compression and the TLS options out, or use --method send",
    });
  }
  if (method !== "auto") return method;
  return canMap && !travels ? "mapped-ram" : "send";
}
