import fs from "node:fs/promises";
import path from "node:path";

import type { QemuMachine } from "../tests/support/qemu.js";
import { captureByQemu, captureByRamport } from "./capture-rows.js";
import { machineOptions, startSource } from "./guest.js";
import { RAMPORT } from "./inspect-rows.js";
import type { RamportJob } from "./ramport-process.js";
import type { Comparison, Row } from "./row.js";
import {
  allocatedBytes,
  measureJob,
  saveWithQemu,
  type SourceSetting,
  timeSync,
  withOutput,
} from "./rows.js";
import { runTool } from "./run-tool.js";
import type { Sample } from "./sample.js";

const GIB = 2 ** 30;
/** Content of both guests. */
const CONTENT_BYTES = GIB;
/** RAM of the one that is mostly empty. */
const WIDE_BYTES = 64 * GIB;

/** Two guests with the same content: one has hardly more RAM than that, the other 64 GiB. */
export interface SparseSetting {
  readonly small: SourceSetting;
  readonly wide: SourceSetting;
}

type Measure = (setting: SourceSetting) => Promise<Sample | string>;

interface Task {
  readonly name: string;
  readonly measure: Measure;
  /** The task of QEMU's that this one is to be as fast as: QEMU looks at each page of the wide guest itself. */
  readonly beside?: string;
}

const EXEC = "QEMU exec:cat>FILE";
const MULTIFD = "QEMU mapped-ram, 2 channels";

/** What is done with both guests. */
const TASKS: readonly Task[] = [
  { name: "ramport inspect --json: mapped-ram", measure: inspect("mapped") },
  { name: "ramport verify: mapped-ram", measure: work("mapped", (input) => ({ kind: "verify", input })) },
  {
    name: "ramport convert: mapped-ram to stream",
    measure: work("mapped", (input, output) => ({ kind: "convert", input, to: "stream", output })),
  },
  {
    name: "ramport extract pc.ram: mapped-ram",
    measure: work("mapped", (input, output) => ({ kind: "extract", input, block: "pc.ram", output })),
  },
  { name: "ramport inspect --json: stream", measure: inspect("stream") },
  { name: "ramport verify: stream", measure: work("stream", (input) => ({ kind: "verify", input })) },
  {
    name: "ramport convert: stream to mapped-ram",
    measure: work("stream", (input, output) => ({ kind: "convert", input, to: "mapped-ram", output })),
  },
  {
    name: "ramport receive file:STREAM",
    measure: work("stream", (input, output) => ({ kind: "receive", uri: `file:${input}`, output })),
  },
  { name: EXEC, measure: captureByQemu({}, (file) => `exec:cat>${file}`) },
  { name: "ramport save, stream", measure: captureByRamport(), beside: EXEC },
  {
    name: MULTIFD,
    measure: captureByQemu({ "mapped-ram": true, multifd: true }, (file) => `file:${file}`),
  },
  { name: "ramport save, stream, 2 channels", measure: captureByRamport(2), beside: MULTIFD },
];

/** Each task with the small guest, and then with the wide one. */
export const SPARSE_ROWS: readonly Row<SparseSetting>[] = TASKS.flatMap(
  ({ name, measure, beside }): Row<SparseSetting>[] => {
    const baseline = `${name}, 1 GiB`;
    const besideSmall: Comparison = { of: baseline, label: "1 GiB", atLeast: 0.9 };
    const besideQemu: Comparison = { of: `${beside ?? ""}, 64 GiB`, label: "QEMU's own", atLeast: 1 };
    const isOurs = name.startsWith("ramport");
    return [
      { name: baseline, measure: ({ small }) => measure(small) },
      {
        name: `${name}, 64 GiB`,
        baseline,
        ...(isOurs ? { comparisons: [beside === undefined ? besideSmall : besideQemu] } : {}),
        measure: ({ wide }) => measure(wide),
      },
    ];
  },
);

function work(
  input: "mapped" | "stream",
  jobOf: (input: string, output: string) => RamportJob,
): (setting: SourceSetting) => Promise<Sample> {
  return (setting) =>
    withOutput(setting.directory, (output) =>
      measureJob(setting, jobOf(setting[input], output), [setting[input]], setting.dataBytes),
    );
}

function inspect(input: "mapped" | "stream"): (setting: SourceSetting) => Promise<Sample> {
  return async (setting) => {
    const { ms, cpuMs } = await runTool(process.execPath, [RAMPORT, "inspect", "--json", setting[input]]);
    return { moveMs: ms, syncMs: 0, wholeMs: ms, bytes: setting.dataBytes, toolCpuMs: cpuMs };
  };
}

/** Starts both guests and saves each as a stream and as a mapped-ram file. */
export async function prepareSparse(directory: string): Promise<SparseSetting> {
  const small = await prepareGuest(directory, CONTENT_BYTES);
  const wide = await prepareGuest(directory, WIDE_BYTES);
  return { small, wide };
}

async function prepareGuest(parent: string, memoryBytes: number): Promise<SourceSetting> {
  const directory = path.join(parent, `sparse-${memoryBytes / GIB}`);
  await fs.mkdir(directory);
  const plain = machineOptions(memoryBytes, directory, CONTENT_BYTES);
  const machine =
    memoryBytes < WIDE_BYTES
      ? plain
      : {
          ...plain,
          // More memory than this machine has: the kernel gives it when nobody asks that it be set aside.
          machine: "pc,memory-backend=pc.ram",
          args: ["-object", `memory-backend-ram,id=pc.ram,size=${memoryBytes},reserve=off`],
        };
  const source = await startSource(machine);
  const files = { stream: path.join(directory, "stream"), mapped: path.join(directory, "mapped") };
  const dataBytes = await saveInputs(source, files);
  return { source, machine, directory, ...files, dataBytes, cache: "warm" };
}

/**
 * Has QEMU write both kinds of file, and syncs them.
 *
 * @returns What the mapped-ram file takes on its device.
 */
export async function saveInputs(
  source: QemuMachine,
  { stream, mapped }: { readonly stream: string; readonly mapped: string },
): Promise<number> {
  await saveWithQemu(source, {}, `exec:cat>${stream}`);
  await timeSync(stream);
  await saveWithQemu(source, { "mapped-ram": true }, `file:${mapped}`);
  await timeSync(mapped);
  return allocatedBytes(mapped);
}
