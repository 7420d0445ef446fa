import { formatMigrationUri, openOutgoing } from "../channels/index.js";
import { sendMappedRam } from "../engine/index.js";
import { applyMigrationSettings } from "./migration-settings.js";
import { makePrivateSocketPath } from "./private-socket.js";
import { prepareQemuTls, withHostname } from "./qemu-tls.js";
import { ignoreShared, incomingArguments, type RestoreJob } from "./restore-method.js";
import type { SocketUri } from "./via.js";
import { reasonOfDestination, waitUntilLoaded } from "./wait-load.js";

/**
 * Restores by sending the file as a precopy stream to a socket that QEMU listens at.
 *
 * @throws MachineError; FormatError; CancelledError.
 */
export async function restoreBySending(job: RestoreJob): Promise<void> {
  const socket = job.via === undefined ? makePrivateSocketPath(job.qmpPath) : undefined;
  try {
    const qemuTls = await prepareQemuTls({ ...job, endpoint: "server" });
    try {
      const settingsBack = await applyMigrationSettings(job.qmp, job.abilities, {
        capabilities: ignoreShared(job.skeleton),
        parameters: qemuTls.parameters,
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

async function sendTo(job: RestoreJob, address: SocketUri): Promise<void> {
  const { qmp, file, skeleton, signal, onProgress } = job;
  await qmp.execute("migrate-incoming", incomingArguments(qmp, formatMigrationUri(address)));
  const { sink, returnPath } = await openOutgoing(address, {
    ...(signal === undefined ? {} : { signal }),
    ...(job.tls === undefined ? {} : { tls: withHostname(job.tls, job.via) }),
  });
  try {
    await sendMappedRam(file, skeleton, sink, {
      ...(returnPath === undefined ? {} : { returnPath }),
      ...(signal === undefined ? {} : { signal }),
      ...(onProgress === undefined ? {} : { onProgress }),
    });
  } catch (error) {
    throw await reasonOfDestination(qmp, error);
  } finally {
    await sink.close();
  }
}
