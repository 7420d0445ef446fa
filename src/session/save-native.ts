import { formatMigrationUri, OutputFile } from "../channels/index.js";
import { MachineError } from "../errors/index.js";
import { clearStalePages, countPages, openMappedRam, readMappedRamTail } from "../engine/index.js";
import { QmpCommandError } from "../qmp/index.js";
import { applyMigrationSettings, mappedRamSettings } from "./migration-settings.js";
import type { SavedByMethod, SaveJob } from "./save-method.js";
import { endMigration, progressOf, waitForMigration } from "./wait-migration.js";

/** QEMU itself could not open the output: another method may reach it. */
export class OutputOutOfReachError extends MachineError {}

/**
 * Saves by letting QEMU 9.0 or newer write the mapped-ram file, under a temporary name. QEMU's file of a running guest
 * keeps old bytes of pages that became zero; they are cleared before the file gets its name.
 *
 * @throws OutputOutOfReachError when QEMU may not or cannot create the file; MachineError; CancelledError.
 */
export async function saveByMappedRam(job: SaveJob): Promise<SavedByMethod> {
  const { qmp } = job;
  const output = OutputFile.reserve(job.outputPath, { replace: job.replace });
  const { capabilities, parameters } = mappedRamSettings(job.abilities, {
    ...job,
    channels: job.channels ?? 1,
  });
  const restoreSettings = await applyMigrationSettings(qmp, job.abilities, {
    capabilities,
    parameters: {
      "max-bandwidth": job.maxBandwidth,
      ...(job.zeroPageDetection === undefined ? {} : { "zero-page-detection": job.zeroPageDetection }),
      ...parameters,
    },
  });
  try {
    await startWriting(job, output);
    const info = await waitForMigration(
      qmp,
      async (answer) => {
        job.onProgress?.(progressOf("saving", answer));
        await job.onInfo(answer);
      },
      job.signal,
    );
    job.onProgress?.({ ...progressOf("writing to the device", info), remainingBytes: 0 });
    return { snapshot: await finishFile(output, job), info };
  } finally {
    await endMigration(qmp);
    output.discard();
    await restoreSettings();
  }
}

/** Lets QEMU create the file, and makes sure that it is one that ramport can see. */
async function startWriting({ qmp, outputPath }: SaveJob, output: OutputFile): Promise<void> {
  try {
    await qmp.execute("migrate", {
      uri: formatMigrationUri({ kind: "file", path: output.temporaryPath, offset: 0 }),
    });
  } catch (error) {
    // QEMU names the failing call; other refusals (a device that cannot migrate) would meet any method.
    if (!(error instanceof QmpCommandError) || !/could not (open|create)|failed to open/i.test(error.desc))
      throw error;
    throw new OutputOutOfReachError(
      "not-capable",
      `QEMU cannot write ${outputPath}: ${error.desc}`,
      {},
      error,
    );
  }
  try {
    output.adopt();
  } catch (error) {
    const message =
      "QEMU writes to a file that ramport cannot open: it runs on another host, in a container, or as another user";
    throw new OutputOutOfReachError(
      "not-capable",
      message,
      { path: output.path, hint: "use --method stream" },
      error,
    );
  }
}

async function finishFile(output: OutputFile, { live, signal }: SaveJob): Promise<SavedByMethod["snapshot"]> {
  const skeleton = openMappedRam(output);
  readMappedRamTail(output, skeleton);
  if (live) clearStalePages(output, skeleton);
  const pages = countPages(output, skeleton.blocks);
  const { sizeBytes: fileBytes, allocatedBytes } = output;
  await output.commit(signal);
  return {
    path: output.path,
    machine: skeleton.configuration.machine,
    ramBytes: skeleton.totalBytes,
    fileBytes,
    allocatedBytes,
    pages,
  };
}
