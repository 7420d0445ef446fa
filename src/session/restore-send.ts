import { formatMigrationUri, openOutgoing, type SocketChannel } from "../channels/index.js";
import {
  multifdSyncModeOf,
  multifdSyncModeOfQemu,
  type MultifdSendOptions,
  sendMappedRam,
} from "../engine/index.js";
import { parseUuid } from "../qapi/index.js";
import { applyMigrationSettings, type MigrationSettings } from "./migration-settings.js";
import { makePrivateSocketPath } from "./private-socket.js";
import { prepareQemuTls, withHostname } from "./qemu-tls.js";
import { ignoreShared, incomingArguments, type RestoreJob } from "./restore-method.js";
import { closeChannels, openMultifdChannels, type WantedChannels } from "./send-channels.js";
import type { SocketUri } from "./via.js";
import { reasonOfDestination, waitUntilLoaded } from "./wait-load.js";

/**
 * Restores by sending the file as a precopy stream to a socket that QEMU listens at, with its pages over more connections
 * where channels were asked for.
 *
 * @throws MachineError; FormatError; CancelledError.
 */
export async function restoreBySending(job: RestoreJob): Promise<void> {
  const socket = job.via === undefined ? makePrivateSocketPath(job.qmpPath) : undefined;
  try {
    const qemuTls = await prepareQemuTls({ ...job, endpoint: "server" });
    try {
      const { capabilities, parameters } = sendSettings(job);
      const settingsBack = await applyMigrationSettings(job.qmp, job.abilities, {
        capabilities,
        parameters: { ...parameters, ...qemuTls.parameters },
      });
      try {
        await sendTo(job, job.via ?? { kind: "unix", path: socket?.path ?? "" });
        await waitUntilLoaded(job);
      } finally {
        await settingsBack();
      }
    } finally {
      await qemuTls.remove();
    }
  } finally {
    socket?.remove();
  }
}

function sendSettings({ channels, compression, skeleton }: RestoreJob): MigrationSettings {
  const capabilities = ignoreShared(skeleton);
  if (channels === undefined) return { capabilities, parameters: {} };
  return {
    capabilities: { ...capabilities, multifd: true },
    parameters: {
      "multifd-channels": channels,
      ...(compression.compression === undefined ? {} : { "multifd-compression": compression.compression }),
    },
  };
}

async function sendTo(job: RestoreJob, address: SocketUri): Promise<void> {
  const { qmp, file, skeleton, signal, onProgress, onMessage } = job;
  const multifd = job.channels === undefined ? undefined : await multifdOptions(job, job.channels);
  await qmp.execute("migrate-incoming", incomingArguments(qmp, formatMigrationUri(address)));
  const tls = job.tls === undefined ? undefined : withHostname(job.tls, job.via);
  const connecting = {
    ...(signal === undefined ? {} : { signal }),
    ...(tls === undefined ? {} : { tls }),
  };
  const { sink, returnPath } = await openOutgoing(address, connecting);
  let channels: readonly SocketChannel[] = [];
  try {
    if (multifd !== undefined) channels = await openMultifdChannels(address, multifd, connecting);
    await sendMappedRam(file, skeleton, sink, {
      ...(returnPath === undefined ? {} : { returnPath }),
      ...(signal === undefined ? {} : { signal }),
      ...(onProgress === undefined ? {} : { onProgress }),
      ...(onMessage === undefined ? {} : { onMessage }),
      ...(multifd === undefined ? {} : { multifd: { ...multifd.sending, channels } }),
    });
  } catch (error) {
    throw await reasonOfDestination(qmp, error);
  } finally {
    await closeChannels(channels);
    await sink.close();
  }
}

/** What the channels must have in common with the QEMU that waits. */
async function multifdOptions(
  { qmp, file, skeleton, compression }: RestoreJob,
  count: number,
): Promise<WantedChannels & { readonly sending: Omit<MultifdSendOptions, "channels"> }> {
  const { UUID: uuid } = await qmp.execute("query-uuid");
  const syncMode = multifdSyncModeOf(skeleton.configuration.machine) ?? multifdSyncModeOfQemu(qmp.version);
  return { count, uuid: parseUuid(uuid), sending: { file, syncMode, ...compression } };
}
