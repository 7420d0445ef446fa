import { formatMigrationUri } from "../channels/index.js";
import { MachineError } from "../errors/index.js";
import { QmpCommandError } from "../qmp/index.js";
import { applyMigrationSettings, mappedRamSettings } from "./migration-settings.js";
import { ignoreShared, incomingArguments, type RestoreJob } from "./restore-method.js";
import { waitUntilLoaded } from "./wait-load.js";

/**
 * Restores by letting QEMU 9.0 or newer read the mapped-ram file.
 *
 * @throws MachineError, also when QEMU may not or cannot open the file: it then takes no other migration; CancelledError.
 */
export async function restoreByMappedRam(job: RestoreJob): Promise<void> {
  const { qmp, abilities, file, skeleton } = job;
  const { capabilities, parameters } = mappedRamSettings(abilities, { ...job, channels: job.channels ?? 1 });
  const settingsBack = await applyMigrationSettings(qmp, abilities, {
    capabilities: { ...capabilities, ...ignoreShared(skeleton) },
    parameters,
  });
  const { streamOffset: offset } = skeleton;
  const uri = formatMigrationUri({ kind: "file", path: file.absolutePath, offset });
  try {
    await qmp.execute("migrate-incoming", incomingArguments(qmp, uri)).catch((error: unknown) => {
      if (!(error instanceof QmpCommandError)) throw error;
      const hint = "start the QEMU anew, and use --method send if it may not read the file";
      throw new MachineError("not-capable", `QEMU cannot load ${file.path}: ${error.desc}`, { hint }, error);
    });
    await waitUntilLoaded(job);
  } finally {
    await settingsBack();
  }
}
