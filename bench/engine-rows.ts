import { execFile, spawnSync } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";

import { ReadableFile } from "../src/channels/index.js";
import { openMappedRam } from "../src/engine/index.js";
import { type QemuMachine, startQemu, type StartQemuOptions } from "../tests/support/qemu.js";
import type { EngineCost, EngineJob } from "./engine-process.js";
import { holdFreeMemory } from "./free-memory.js";
import { configure, cpuMs, machineOptions, prepareSource, startSource, timeMigration } from "./guest.js";
import type { Comparison, Row } from "./row.js";
import { allocatedBytes, saveWithQemu, timeSync, withOutput } from "./rows.js";
import type { Sample } from "./sample.js";

const run = promisify(execFile);

const MIB = 1 << 20;

/** What all rows work with. */
export interface EngineSetting {
  readonly source: QemuMachine;
  readonly machine: StartQemuOptions;
  readonly directory: string;
  /** A mapped-ram file of the source that QEMU wrote. */
  readonly mapped: string;
  /** Where the pages of its largest block are, as far as they have content. */
  readonly pages: { readonly offset: number; readonly length: number };
}

/** What direct I/O is to reach of fio's speed. */
const DIRECT_GOAL = 0.9;
const CHANNELS = [undefined, 1, 2, 4] as const;

/** The engine's own largest requests. */
const FIO_BLOCKS = { load: "4M", save: "1M" } as const;
/** How much fio has in flight: the last one is the disk's measure. */
const FIO_DEPTHS = [1, 4] as const;

/** The engine's loads and saves of mapped-ram files, QEMU's with the same channels, and what fio makes of the disk. */
export const ENGINE_ROWS: readonly Row<EngineSetting>[] = [
  ...(["load", "save"] as const).flatMap((kind) =>
    [false, true].flatMap((direct) => [
      ...(direct ? FIO_DEPTHS.map((depth) => fioRow(kind, depth)) : []),
      // QEMU has direct I/O with channels only.
      ...CHANNELS.filter((channels) => !direct || channels !== undefined).flatMap((channels) =>
        pair(kind, direct, channels),
      ),
    ]),
  ),
];

function pair(kind: "load" | "save", direct: boolean, channels: number | undefined): Row<EngineSetting>[] {
  const how = `${kind} ${direct ? "direct" : "buffered"}, ${channels === undefined ? "no channels" : `channels ${channels}`}`;
  const qemu = kind === "load" ? loadByQemu : saveByQemu;
  const besideFio: Comparison = { of: fioName(kind, FIO_DEPTHS[1]), label: "fio", atLeast: DIRECT_GOAL };
  return [
    { name: `QEMU ${how}`, measure: (setting) => qemu(setting, direct, channels) },
    {
      name: `engine ${how}`,
      baseline: `QEMU ${how}`,
      comparisons: [{ of: `QEMU ${how}`, label: "QEMU", atLeast: 1 }, ...(direct ? [besideFio] : [])],
      measure: (setting) => byEngine(setting, kind, direct, channels),
    },
  ];
}

function byEngine(
  { mapped, directory, machine }: EngineSetting,
  kind: EngineJob["kind"],
  direct: boolean,
  channels: number | undefined,
): Promise<Sample> {
  return withOutput(directory, async (output) => {
    const job: EngineJob = {
      ...{ kind, input: mapped, direct, output },
      ...(channels === undefined ? {} : { channels }),
    };
    // A save loads it first.
    await holdFreeMemory(2 * machine.memoryBytes);
    const script = fileURLToPath(new URL("engine-process.ts", import.meta.url));
    const { stdout } = await run(process.execPath, ["--import", "tsx", script, JSON.stringify(job)]);
    const { ms, syncMs, cpuMs: ownCpuMs, extraBytes } = JSON.parse(stdout) as EngineCost;
    const ramport = { cpuMs: ownCpuMs, peakBytes: extraBytes };
    return { ...(await sampleOf(mapped, ms, syncMs)), ramport };
  });
}

/** @param mapped A file with as much as was moved. */
async function sampleOf(mapped: string, ms: number, syncMs: number): Promise<Sample> {
  return { moveMs: ms, syncMs, wholeMs: ms + syncMs, bytes: await allocatedBytes(mapped) };
}

async function setChannels(
  machine: QemuMachine,
  direct: boolean,
  channels: number | undefined,
): Promise<void> {
  if (channels !== undefined) await machine.qmp("migrate-set-parameters", { "multifd-channels": channels });
  await machine.qmp("migrate-set-parameters", { "direct-io": direct });
}

async function loadByQemu(setting: EngineSetting, direct: boolean, channels?: number): Promise<Sample> {
  const machine = await startQemu({ ...setting.machine, incoming: "defer", paused: true });
  try {
    await configure(machine, { "mapped-ram": true, ...(channels === undefined ? {} : { multifd: true }) });
    await setChannels(machine, direct, channels);
    const cpuBefore = cpuMs(machine);
    await holdFreeMemory(2 * setting.machine.memoryBytes);
    const uri = `file:${setting.mapped}`;
    const { ms } = await timeMigration(machine, () => machine.qmp("migrate-incoming", { uri }));
    const qemuCpuMs = cpuMs(machine) - cpuBefore;
    return { ...(await sampleOf(setting.mapped, ms, 0)), qemuCpuMs };
  } finally {
    await machine.kill();
  }
}

function saveByQemu(setting: EngineSetting, direct: boolean, channels?: number): Promise<Sample> {
  const { source, directory, machine, mapped } = setting;
  return withOutput(directory, async (output) => {
    await holdFreeMemory(2 * machine.memoryBytes);
    await prepareSource(source, { "mapped-ram": true, ...(channels === undefined ? {} : { multifd: true }) });
    await setChannels(source, direct, channels);
    const cpuBefore = cpuMs(source);
    const { ms } = await timeMigration(source, () => source.qmp("migrate", { uri: `file:${output}` }));
    const qemuCpuMs = cpuMs(source) - cpuBefore;
    await source.qmp("migrate-set-parameters", { "direct-io": false });
    return { ...(await sampleOf(mapped, ms, await timeSync(output))), qemuCpuMs };
  });
}

function fioName(kind: "load" | "save", depth: number): string {
  return `fio ${kind} direct, ${FIO_BLOCKS[kind]}, depth ${depth}`;
}

/** As many bytes of the same file, or of a new one, without the page cache. */
function fioRow(kind: "load" | "save", depth: number): Row<EngineSetting> {
  const isLoad = kind === "load";
  return {
    name: fioName(kind, depth),
    measure: ({ mapped, pages, directory }) =>
      withOutput(directory, async (output) => {
        if (spawnSync("fio", ["--version"]).status !== 0) return "no fio";
        const { stdout } = await run("fio", [
          ...[
            "--name=row",
            "--direct=1",
            `--bs=${FIO_BLOCKS[kind]}`,
            "--ioengine=libaio",
            `--iodepth=${depth}`,
          ],
          ...["--output-format=json", "--thread", "--fallocate=none"],
          ...[`--rw=${isLoad ? "read" : "write"}`, `--size=${pages.length}`],
          ...[`--filename=${isLoad ? mapped : output}`, ...(isLoad ? [`--offset=${pages.offset}`] : [])],
        ]);
        const { jobs } = JSON.parse(stdout.slice(stdout.indexOf("{"))) as {
          jobs: Record<string, { runtime: number }>[];
        };
        const ms = jobs[0]?.[isLoad ? "read" : "write"]?.runtime ?? NaN;
        const sample = await sampleOf(mapped, ms, isLoad ? 0 : await timeSync(output));
        return { ...sample, bytes: pages.length };
      }),
  };
}

/** Fills the source's memory and has QEMU save it. */
export async function prepareEngineRows(memoryBytes: number, directory: string): Promise<EngineSetting> {
  const machine = machineOptions(memoryBytes, directory);
  const source = await startSource(machine);
  const mapped = path.join(directory, "mapped");
  await saveWithQemu(source, { "mapped-ram": true }, `file:${mapped}`);
  await timeSync(mapped);
  const file = ReadableFile.open(mapped);
  const largest = openMappedRam(file).blocks.reduce((a, b) => (a.usedLength >= b.usedLength ? a : b));
  file.close();
  // What lies behind the content is a hole, which costs fio nothing.
  const length = Math.min(largest.usedLength, Math.floor((await allocatedBytes(mapped)) / MIB) * MIB);
  const pages = { offset: largest.mapped?.pagesOffset ?? 0, length };
  return { source, machine, directory, mapped, pages };
}
