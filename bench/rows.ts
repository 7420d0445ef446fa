import fs from "node:fs/promises";
import path from "node:path";

import { type QemuMachine, startQemu, type StartQemuOptions } from "../tests/support/qemu.js";
import { type Capabilities, prepareSource, timeMigration } from "./guest.js";
import { type CacheState, settle } from "./page-cache.js";
import type { RamportJob } from "./ramport-process.js";
import { runRamport } from "./run-ramport.js";
import type { Sample } from "./sample.js";

/** What all rows work with. */
export interface Setting {
  readonly machine: StartQemuOptions;
  /** Where output files go; one at a time. */
  readonly directory: string;
  /** A classic stream and a mapped-ram file of the source. */
  readonly stream: string;
  readonly mapped: string;
  /** What the mapped-ram file takes on its device: the guest's pages with content. */
  readonly dataBytes: number;
  readonly cache: CacheState;
}

/** While the guest is there. */
export interface SourceSetting extends Setting {
  readonly source: QemuMachine;
}

/** Saves with QEMU alone; returns its time in milliseconds. */
export async function saveWithQemu(source: QemuMachine, on: Capabilities, uri: string): Promise<number> {
  await prepareSource(source, on);
  return (await timeMigration(source, () => source.qmp("migrate", { uri }))).ms;
}

/** Gives a name for an output file, and removes the file: every run starts with the same page cache. */
export async function withOutput<T>(directory: string, use: (file: string) => Promise<T>): Promise<T> {
  const file = path.join(directory, "output");
  try {
    return await use(file);
  } finally {
    await fs.rm(file, { force: true });
  }
}

/** Destinations are paused: what a guest does after it was loaded is not measured. */
export async function withDestination<T>(
  setting: Setting,
  use: (destination: QemuMachine) => Promise<T>,
): Promise<T> {
  const destination = await startQemu({ ...setting.machine, incoming: "defer", paused: true });
  try {
    return await use(destination);
  } finally {
    await destination.kill();
  }
}

/** Measures a job that needs no QEMU. */
export async function measureJob(
  setting: Setting,
  job: RamportJob,
  inputs: readonly string[],
  bytes: number,
): Promise<Sample> {
  await settle(setting, inputs);
  const ramport = await runRamport(job);
  const { wholeMs, syncMs } = ramport;
  return { moveMs: wholeMs - syncMs, syncMs, wholeMs, bytes, ramport };
}

/** `fsync` of a file. */
export async function timeSync(file: string): Promise<number> {
  const handle = await fs.open(file, "r+");
  try {
    const start = performance.now();
    await handle.sync();
    return performance.now() - start;
  } finally {
    await handle.close();
  }
}

/** Bytes that a file takes on its device. */
export async function allocatedBytes(file: string): Promise<number> {
  return (await fs.stat(file)).blocks * 512;
}
