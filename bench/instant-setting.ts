import fs from "node:fs/promises";
import path from "node:path";

import { buildMemoryLoad } from "../guests/memory-load.js";
import { killAllQemus, startQemu, type StartQemuOptions } from "../tests/support/qemu.js";
import { prepareSource, QEMU_VERSION, timeMigration } from "./guest.js";
import type { CacheState } from "./page-cache.js";
import { allocatedBytes, timeSync } from "./rows.js";

/** What the guest uses again and again: so many pages, scattered over all of its memory. */
export const WORKING_SET_PAGES = (64 << 20) / 4096;

/** While the machine has it, the guest waits before its first pass. */
const DEBUG_PORT = ["-chardev", "null,id=debug", "-device", "isa-debugcon,iobase=0xe9,chardev=debug"];

/** What the rows of instant restore work with. */
export interface InstantSetting {
  /** The machine that restores. */
  readonly machine: StartQemuOptions;
  readonly directory: string;
  /** Snapshot of a guest that has filled its memory and is about to begin. */
  readonly mapped: string;
  readonly dataBytes: number;
  readonly cache: CacheState;
}

/** Makes the snapshot. */
export async function prepareInstant(memoryBytes: number, directory: string): Promise<InstantSetting> {
  const machine: StartQemuOptions = {
    version: QEMU_VERSION,
    memoryBytes,
    workDir: directory,
    guestImage: buildMemoryLoad({
      memoryBytes,
      workingSetPages: WORKING_SET_PAGES,
      isTimed: true,
      stride: 4,
    }),
  };
  const source = await startQemu({ ...machine, args: DEBUG_PORT });
  while (source.serial.startId === undefined) await new Promise((resolve) => setTimeout(resolve, 50));
  const mapped = path.join(directory, "mapped");
  await prepareSource(source, { "mapped-ram": true });
  await timeMigration(source, () => source.qmp("migrate", { uri: `file:${mapped}` }));
  await killAllQemus();
  await timeSync(mapped);
  await fs.chmod(mapped, 0o600);
  return { machine, directory, mapped, dataBytes: await allocatedBytes(mapped), cache: "warm" };
}
