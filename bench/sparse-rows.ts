import fs from "node:fs/promises";
import path from "node:path";

import type { QemuMachine } from "../tests/support/qemu.js";
import { captureByQemu, captureByRamport } from "./capture-rows.js";
import { machineOptions, startSource } from "./guest.js";
import { RAMPORT } from "./inspect-rows.js";
import type { RamportJob } from "./ramport-process.js";
import type { Row } from "./row.js";
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

/** What is done with both guests. Those of QEMU alone say what part of the others is QEMU's. */
const TASKS: readonly (readonly [name: string, measure: Measure])[] = [
  ["ramport inspect --json: mapped-ram", inspect("mapped")],
  ["ramport verify: mapped-ram", work("mapped", (input) => ({ kind: "verify", input }))],
  [
    "ramport convert: mapped-ram to stream",
    work("mapped", (input, output) => ({ kind: "convert", input, to: "stream", output })),
  ],
  [
    "ramport extract pc.ram: mapped-ram",
    work("mapped", (input, output) => ({ kind: "extract", input, block: "pc.ram", output })),
  ],
  ["ramport inspect --json: stream", inspect("stream")],
  ["ramport verify: stream", work("stream", (input) => ({ kind: "verify", input }))],
  [
    "ramport convert: stream to mapped-ram",
    work("stream", (input, output) => ({ kind: "convert", input, to: "mapped-ram", output })),
  ],
  [
    "ramport receive file:STREAM",
    work("stream", (input, output) => ({ kind: "receive", uri: `file:${input}`, output })),
  ],
  ["QEMU exec:cat>FILE", captureByQemu({}, (file) => `exec:cat>${file}`)],
  ["ramport save, stream", captureByRamport()],
  ["ramport save, stream, 2 channels", captureByRamport(2)],
  ["QEMU mapped-ram", captureByQemu({ "mapped-ram": true }, (file) => `file:${file}`)],
  [
    "QEMU mapped-ram, 2 channels",
    captureByQemu({ "mapped-ram": true, multifd: true }, (file) => `file:${file}`),
  ],
];

/** Each task with the small guest, and then with the wide one. */
export const SPARSE_ROWS: readonly Row<SparseSetting>[] = TASKS.flatMap(
  ([name, measure]): Row<SparseSetting>[] => {
    const baseline = `${name}, 1 GiB`;
    // What only looks into a file is over at once; what is QEMU's alone has no goal.
    const isOurs = name.startsWith("ramport");
    return [
      { name: baseline, measure: ({ small }) => measure(small) },
      {
        name: `${name}, 64 GiB`,
        baseline,
        ...(isOurs ? { comparisons: [{ of: baseline, label: "1 GiB", atLeast: 0.9 }] } : {}),
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
