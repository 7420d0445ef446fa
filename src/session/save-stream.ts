import type { MigrationUri } from "../channels/index.js";
import { assert, CancelledError, RamportError, UsageError } from "../errors/index.js";
import type { MigrationInfo } from "../qmp/index.js";
import { multifdSyncModeOfQemu } from "../engine/index.js";
import { applyMigrationSettings, type MigrationSettings } from "./migration-settings.js";
import { makePrivateSocketPath } from "./private-socket.js";
import { prepareQemuTls } from "./qemu-tls.js";
import { receiveSnapshot, type WrittenSnapshot } from "./receive.js";
import type { SavedByMethod, SaveJob } from "./save-method.js";
import { endMigration, progressOf, waitForMigration } from "./wait-migration.js";

/**
 * Saves by migrating into a socket of ramport's, which writes the file. QEMU counts the migration as done only when the
 * file is on its device: until then a failure leaves it with a guest that goes on.
 *
 * @throws What either side throws; the side that failed first is the one reported.
 */
export async function saveByStream(job: SaveJob): Promise<SavedByMethod> {
  if (job.directIo) {
    throw new UsageError("Direct I/O is for the mapped-ram method", {
      hint: "leave it out, or use --method mapped-ram",
    });
  }
  const socket = job.via === undefined ? makePrivateSocketPath(job.qmpPath) : undefined;
  try {
    const qemuTls = await prepareQemuTls({ ...job, endpoint: "client" });
    try {
      const { capabilities, parameters } = streamSettings(job);
      const restoreSettings = await applyMigrationSettings(job.qmp, job.abilities, {
        capabilities,
        parameters: { ...parameters, ...qemuTls.parameters },
      });
      try {
        return await migrateIntoSocket(job, job.via ?? { kind: "unix", path: socket?.path ?? "" });
      } finally {
        await endMigration(job.qmp);
        await restoreSettings();
      }
    } finally {
      await qemuTls.remove();
    }
  } finally {
    socket?.remove();
  }
}

function streamSettings({
  channels,
  compression: { compression, compressionLevel },
  zeroPageDetection,
  maxBandwidth,
}: SaveJob): MigrationSettings {
  return {
    capabilities: { "return-path": true, ...(channels === undefined ? {} : { multifd: true }) },
    parameters: {
      "max-bandwidth": maxBandwidth,
      ...(channels === undefined ? {} : { "multifd-channels": channels }),
      ...(compression === undefined ? {} : { "multifd-compression": compression }),
      ...(compression === undefined || compressionLevel === undefined
        ? {}
        : { [`multifd-${compression}-level`]: compressionLevel }),
      ...(zeroPageDetection === undefined ? {} : { "zero-page-detection": zeroPageDetection }),
    },
  };
}

async function migrateIntoSocket(job: SaveJob, uri: MigrationUri): Promise<SavedByMethod> {
  // Ends the receiver when QEMU's side has failed.
  const sourceFailed = new AbortController();
  const signals = job.signal === undefined ? [sourceFailed.signal] : [sourceFailed.signal, job.signal];
  let migrating: Promise<MigrationInfo> | undefined;
  let snapshot: WrittenSnapshot;
  try {
    snapshot = await receiveSnapshot(uri, job.outputPath, {
      replace: job.replace,
      ...(job.tls === undefined ? {} : { tls: job.tls }),
      signal: AbortSignal.any(signals),
      ...(job.channels === undefined
        ? {}
        : { channels: job.channels, otherwiseMultifdSync: multifdSyncModeOfQemu(job.qmp.version) }),
      onListening: (listeningUri) => {
        migrating = startMigration(job, listeningUri);
        migrating.catch((error: unknown) => sourceFailed.abort(error));
      },
    });
  } catch (error) {
    throw await firstFailure(error, migrating, sourceFailed.signal);
  }
  assert(migrating !== undefined, "received a migration that nobody started");
  return { snapshot, info: await lastInfo(job, migrating) };
}

async function startMigration(job: SaveJob, uri: string): Promise<MigrationInfo> {
  await job.qmp.execute("migrate", { uri });
  return waitForMigration(
    job.qmp,
    async (info) => {
      job.onProgress?.(progressOf("saving", info));
      await job.onInfo(info);
    },
    job.signal,
  );
}

/** The file has its name and QEMU was told so: a Ctrl-C that comes now is too late. */
async function lastInfo(job: SaveJob, migrating: Promise<MigrationInfo>): Promise<MigrationInfo> {
  try {
    return await migrating;
  } catch (error) {
    if (!(error instanceof CancelledError)) throw error;
    return waitForMigration(job.qmp, () => undefined, undefined);
  }
}

/** A stream that breaks off is what the receiver sees when QEMU fails; then QEMU's own words are the reason. */
async function firstFailure(
  received: unknown,
  migrating: Promise<MigrationInfo> | undefined,
  sourceFailed: AbortSignal,
): Promise<unknown> {
  if (sourceFailed.aborted) return sourceFailed.reason;
  const isSymptom =
    received instanceof RamportError &&
    (received.code === "truncated" || received.code === "connection-closed");
  if (!isSymptom || received instanceof CancelledError) return received;
  try {
    await migrating;
    return received;
  } catch (error) {
    return error;
  }
}
