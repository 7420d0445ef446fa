import { execFile } from "node:child_process";
import fs from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";

import { startQemu, type QemuMachine, type StartQemuOptions } from "../tests/support/qemu.js";
import { warmFreeMemory } from "./free-memory.js";
import { type Capabilities, configure, cpuMs, prepareSource, timeMigration } from "./guest.js";
import { runRamport } from "./run-ramport.js";
import type { Sample } from "./sample.js";

const run = promisify(execFile);

/** What all rows work with. */
export interface Setting {
  readonly source: QemuMachine;
  readonly machine: StartQemuOptions;
  /** Where output files go; one at a time. */
  readonly directory: string;
  /** A classic stream and a mapped-ram file of the source, in the page cache. */
  readonly stream: string;
  readonly mapped: string;
}

/** One line of the table. */
export interface Row {
  readonly name: string;
  readonly group: "save" | "receive" | "restore" | "channels";
  /** Name of the row of the same group that this one is compared with; none for that row itself. */
  readonly baseline?: string;
  measure(setting: Setting): Promise<Sample>;
}

const EXEC_SAVE = "QEMU exec:cat>FILE";
const COPY = "cat STREAM >FILE";
const NATIVE_LOAD = "QEMU mapped-ram load";
const NATIVE_CHANNELS = "QEMU mapped-ram load, 2 channels";

/** All rows, in the order in which each round goes through them. */
export const ROWS: readonly Row[] = [
  { name: EXEC_SAVE, group: "save", measure: saveByQemu({}, (file) => `exec:cat>${file}`) },
  {
    name: "ramport save, stream",
    group: "save",
    baseline: EXEC_SAVE,
    measure: saveByRamport,
  },
  {
    name: "QEMU file:",
    group: "save",
    baseline: EXEC_SAVE,
    measure: saveByQemu({}, (file) => `file:${file}`),
  },
  {
    name: "QEMU mapped-ram",
    group: "save",
    baseline: EXEC_SAVE,
    measure: saveByQemu({ "mapped-ram": true }, (file) => `file:${file}`),
  },
  {
    name: "QEMU mapped-ram, 2 channels",
    group: "save",
    baseline: EXEC_SAVE,
    measure: saveByQemu({ "mapped-ram": true, multifd: true }, (file) => `file:${file}`),
  },
  { name: COPY, group: "receive", measure: copyStream },
  { name: "ramport receive file:STREAM", group: "receive", baseline: COPY, measure: receiveByRamport },
  {
    name: NATIVE_LOAD,
    group: "restore",
    measure: loadByQemu({ "mapped-ram": true }, ({ mapped }) => `file:${mapped}`),
  },
  {
    name: "QEMU exec:cat STREAM",
    group: "restore",
    baseline: NATIVE_LOAD,
    measure: loadByQemu({}, ({ stream }) => `exec:cat ${stream}`),
  },
  { name: "ramport restore, send", group: "restore", baseline: NATIVE_LOAD, measure: restoreByRamport() },
  {
    name: NATIVE_CHANNELS,
    group: "channels",
    measure: loadByQemu({ "mapped-ram": true, multifd: true }, ({ mapped }) => `file:${mapped}`),
  },
  ...[1, 2, 4].map((channels): Row => ({
    name: `ramport restore, send, ${channels} channels`,
    group: "channels",
    baseline: NATIVE_CHANNELS,
    measure: restoreByRamport(channels),
  })),
];

/** Saves with QEMU alone; returns its time in milliseconds. */
export async function saveWithQemu(source: QemuMachine, on: Capabilities, uri: string): Promise<number> {
  await prepareSource(source, on);
  return (await timeMigration(source, () => source.qmp("migrate", { uri }))).ms;
}

function saveByQemu(on: Capabilities, uriOf: (file: string) => string): Row["measure"] {
  return ({ source, directory, machine }) =>
    withOutput(directory, async (file) => {
      warmFreeMemory(directory, machine.memoryBytes);
      const cpuBefore = cpuMs(source);
      const moveMs = await saveWithQemu(source, on, uriOf(file));
      const qemuCpuMs = cpuMs(source) - cpuBefore;
      const syncMs = await timeSync(file);
      return { moveMs, syncMs, wholeMs: moveMs + syncMs, qemuCpuMs };
    });
}

function saveByRamport({ source, directory, machine }: Setting): Promise<Sample> {
  return withOutput(directory, async (output) => {
    await prepareSource(source, {});
    const cpuBefore = cpuMs(source);
    const { ms, value } = await timeMigration(source, () =>
      runRamport({ kind: "save", qmpPath: source.qmpPath, output }, () =>
        warmFreeMemory(directory, machine.memoryBytes),
      ),
    );
    const { wholeMs, syncMs } = value;
    // ramport confirms over the return path when the file is on its device: QEMU's time has the sync in it.
    return { moveMs: ms - syncMs, syncMs, wholeMs, qemuCpuMs: cpuMs(source) - cpuBefore, ramport: value };
  });
}

function receiveByRamport({ stream, directory, machine }: Setting): Promise<Sample> {
  return withOutput(directory, async (output) => {
    const ramport = await runRamport({ kind: "receive", uri: `file:${stream}`, output }, () =>
      warmFreeMemory(directory, machine.memoryBytes),
    );
    const { wholeMs, syncMs } = ramport;
    return { moveMs: wholeMs - syncMs, syncMs, wholeMs, ramport };
  });
}

function copyStream({ stream, directory, machine }: Setting): Promise<Sample> {
  return withOutput(directory, async (output) => {
    warmFreeMemory(directory, machine.memoryBytes);
    const start = performance.now();
    await run("sh", ["-c", `exec cat "$1" >"$2"`, "sh", stream, output]);
    const moveMs = performance.now() - start;
    const syncMs = await timeSync(output);
    return { moveMs, syncMs, wholeMs: moveMs + syncMs };
  });
}

function loadByQemu(on: Capabilities, uriOf: (setting: Setting) => string): Row["measure"] {
  return (setting) =>
    withDestination(setting, async (destination) => {
      await configure(destination, on);
      const cpuBefore = cpuMs(destination);
      warmFreeMemory(setting.directory, setting.machine.memoryBytes);
      const { ms } = await timeMigration(destination, () =>
        destination.qmp("migrate-incoming", { uri: uriOf(setting) }),
      );
      return { moveMs: ms, syncMs: 0, wholeMs: ms, qemuCpuMs: cpuMs(destination) - cpuBefore };
    });
}

function restoreByRamport(channels?: number): Row["measure"] {
  return (setting) =>
    withDestination(setting, async (destination) => {
      await configure(destination, {});
      const cpuBefore = cpuMs(destination);
      const { qmpPath } = destination;
      const job = { kind: "restore", qmpPath, input: setting.mapped } as const;
      const { ms, value } = await timeMigration(destination, () =>
        runRamport({ ...job, ...(channels === undefined ? {} : { channels }) }, () =>
          warmFreeMemory(setting.directory, setting.machine.memoryBytes),
        ),
      );
      const qemuCpuMs = cpuMs(destination) - cpuBefore;
      return { moveMs: ms, syncMs: 0, wholeMs: value.wholeMs, qemuCpuMs, ramport: value };
    });
}

/** Gives a name for an output file, and removes the file: every run starts with the same page cache. */
export async function withOutput(directory: string, use: (file: string) => Promise<Sample>): Promise<Sample> {
  const file = path.join(directory, "output");
  try {
    return await use(file);
  } finally {
    await fs.rm(file, { force: true });
  }
}

/** Destinations are paused: what a guest does after it was loaded is not measured. */
async function withDestination(
  setting: Setting,
  use: (destination: QemuMachine) => Promise<Sample>,
): Promise<Sample> {
  const destination = await startQemu({ ...setting.machine, incoming: "defer", paused: true });
  try {
    return await use(destination);
  } finally {
    await destination.kill();
  }
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
