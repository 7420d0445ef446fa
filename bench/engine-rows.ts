/**
 * The engine's loads and saves of mapped-ram files against QEMU's own, with the same channels, and against fio where the page
 * cache is left out: `tsx bench/engine-rows.ts [--size 1G] [--runs 3] [--dir FOLDER] [--only TEXT] [--json FILE]`.
 *
 * @module
 */

import { execFile, spawnSync } from "node:child_process";
import fs from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { parseArgs, promisify } from "node:util";
import { fileURLToPath } from "node:url";

import { ReadableFile } from "../src/channels/index.js";
import { openMappedRam } from "../src/engine/index.js";
import { killAllQemus, type QemuMachine, startQemu, type StartQemuOptions } from "../tests/support/qemu.js";
import type { EngineCost, EngineJob } from "./engine-process.js";
import { warmFreeMemory } from "./free-memory.js";
import { configure, cpuMs, machineOptions, prepareSource, startSource, timeMigration } from "./guest.js";
import { saveWithQemu, timeSync } from "./rows.js";
import { spreadOf } from "./sample.js";

const run = promisify(execFile);

/** What all rows work with. */
export interface EngineSetting {
  readonly source: QemuMachine;
  readonly machine: StartQemuOptions;
  readonly directory: string;
  /** A mapped-ram file of the source that QEMU wrote. */
  readonly mapped: string;
  /** Where the pages of its largest block are. */
  readonly pages: { readonly offset: number; readonly length: number };
}

/** One run: milliseconds of the operation without syncing, of the sync, and of processors. */
export interface EngineSample {
  readonly ms: number;
  readonly syncMs: number;
  readonly cpuMs?: number;
  readonly extraBytes?: number;
}

/** One line of the table. */
export interface EngineRow {
  readonly name: string;
  /** Name of the row that this one is compared with. */
  readonly baseline?: string;
  /** Name of the row that says what the disk can do. */
  readonly disk?: string;
  /** Measures, or says why it cannot. */
  measure(setting: EngineSetting): Promise<EngineSample | string>;
}

/** The engine's own largest requests. */
const FIO_BLOCKS = { load: "4M", save: "1M" } as const;

const CHANNELS = [undefined, 1, 2, 4] as const;

/** All rows, in the order in which each round goes through them. */
export const ENGINE_ROWS: readonly EngineRow[] = [
  ...(["load", "save"] as const).flatMap((kind) =>
    [false, true].flatMap((direct) => [
      ...(direct ? [1, 4].map((depth) => fioRow(kind, depth)) : []),
      // QEMU has direct I/O with channels only.
      ...CHANNELS.filter((channels) => !direct || channels !== undefined).flatMap((channels) =>
        pair(kind, direct, channels),
      ),
    ]),
  ),
];

function pair(kind: "load" | "save", direct: boolean, channels: number | undefined): EngineRow[] {
  const how = `${kind} ${direct ? "direct" : "buffered"}, ${channels === undefined ? "no channels" : `channels ${channels}`}`;
  const qemu = kind === "load" ? loadByQemu : saveByQemu;
  return [
    { name: `QEMU ${how}`, measure: (setting) => qemu(setting, direct, channels) },
    {
      name: `engine ${how}`,
      baseline: `QEMU ${how}`,
      ...(direct ? { disk: fioName(kind, 4) } : {}),
      measure: (setting) => byEngine(setting, kind, direct, channels),
    },
  ];
}

async function byEngine(
  { mapped, directory }: EngineSetting,
  kind: EngineJob["kind"],
  direct: boolean,
  channels: number | undefined,
): Promise<EngineSample> {
  const output = path.join(directory, "output");
  const job: EngineJob = {
    ...{ kind, input: mapped, direct, output, directory },
    ...(channels === undefined ? {} : { channels }),
  };
  try {
    const script = fileURLToPath(new URL("engine-process.ts", import.meta.url));
    const { stdout } = await run(process.execPath, ["--import", "tsx", script, JSON.stringify(job)]);
    return JSON.parse(stdout) as EngineCost;
  } finally {
    await fs.rm(output, { force: true });
  }
}

async function setChannels(
  machine: QemuMachine,
  direct: boolean,
  channels: number | undefined,
): Promise<void> {
  if (channels !== undefined) await machine.qmp("migrate-set-parameters", { "multifd-channels": channels });
  await machine.qmp("migrate-set-parameters", { "direct-io": direct });
}

async function loadByQemu(setting: EngineSetting, direct: boolean, channels?: number): Promise<EngineSample> {
  const machine = await startQemu({ ...setting.machine, incoming: "defer", paused: true });
  try {
    await configure(machine, { "mapped-ram": true, ...(channels === undefined ? {} : { multifd: true }) });
    await setChannels(machine, direct, channels);
    const cpuBefore = cpuMs(machine);
    warmFreeMemory(setting.directory, setting.machine.memoryBytes);
    const uri = `file:${setting.mapped}`;
    const { ms } = await timeMigration(machine, () => machine.qmp("migrate-incoming", { uri }));
    return { ms, syncMs: 0, cpuMs: cpuMs(machine) - cpuBefore };
  } finally {
    await machine.kill();
  }
}

async function saveByQemu(setting: EngineSetting, direct: boolean, channels?: number): Promise<EngineSample> {
  const { source, directory, machine } = setting;
  const output = path.join(directory, "output");
  warmFreeMemory(directory, machine.memoryBytes);
  try {
    await prepareSource(source, { "mapped-ram": true, ...(channels === undefined ? {} : { multifd: true }) });
    await setChannels(source, direct, channels);
    const cpuBefore = cpuMs(source);
    const { ms } = await timeMigration(source, () => source.qmp("migrate", { uri: `file:${output}` }));
    const cpu = cpuMs(source) - cpuBefore;
    await source.qmp("migrate-set-parameters", { "direct-io": false });
    return { ms, syncMs: await timeSync(output), cpuMs: cpu };
  } finally {
    await fs.rm(output, { force: true });
  }
}

function fioName(kind: "load" | "save", depth: number): string {
  return `fio ${kind} direct, ${FIO_BLOCKS[kind]}, depth ${depth}`;
}

/** The same bytes of the same file, or as many of a new one, without the page cache. */
function fioRow(kind: "load" | "save", depth: number): EngineRow {
  return {
    name: fioName(kind, depth),
    async measure({ mapped, pages, directory }) {
      if (spawnSync("fio", ["--version"]).status !== 0) return "not measured: no fio";
      const output = path.join(directory, "output");
      const isLoad = kind === "load";
      try {
        const { stdout } = await run("fio", [
          ...[
            "--name=row",
            "--direct=1",
            `--bs=${FIO_BLOCKS[kind]}`,
            "--ioengine=libaio",
            `--iodepth=${depth}`,
            "--output-format=json",
          ],
          ...["--thread", "--fallocate=none", `--rw=${isLoad ? "read" : "write"}`, `--size=${pages.length}`],
          ...[`--filename=${isLoad ? mapped : output}`, ...(isLoad ? [`--offset=${pages.offset}`] : [])],
        ]);
        const [job] = (
          JSON.parse(stdout.slice(stdout.indexOf("{"))) as { jobs: Record<string, { runtime: number }>[] }
        ).jobs;
        return {
          ms: job?.[isLoad ? "read" : "write"]?.runtime ?? NaN,
          syncMs: isLoad ? 0 : await timeSync(output),
        };
      } finally {
        await fs.rm(output, { force: true });
      }
    },
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
  const pages = { offset: largest.mapped?.pagesOffset ?? 0, length: largest.usedLength };
  return { source, machine, directory, mapped, pages };
}

/** Row after row, and that again: whatever disturbs the machine disturbs all rows. Round 0 is not counted. */
export async function measureEngineRows(
  setting: EngineSetting,
  rows: readonly EngineRow[],
  runs: number,
): Promise<ReadonlyMap<string, EngineSample[] | string>> {
  const samples = new Map<string, EngineSample[] | string>(rows.map(({ name }) => [name, []]));
  for (let round = 0; round <= runs; round++) {
    for (const row of rows) {
      const own = samples.get(row.name);
      if (typeof own !== "object") continue;
      process.stderr.write(`round ${round} of ${runs}: ${row.name}\n`);
      const sample = await row.measure(setting);
      if (typeof sample === "string") samples.set(row.name, sample);
      else if (round > 0) own.push(sample);
    }
  }
  return samples;
}

/**
 * One line a row: medians, their spread, and how many times as fast as another one a row is: by the median of the rounds, and
 * by the best of each, which tells more where others use the machine too.
 */
export function formatEngineRows(
  rows: readonly EngineRow[],
  samples: ReadonlyMap<string, EngineSample[] | string>,
  memoryBytes: number,
): string {
  const lines = rows.map(({ name, baseline, disk }) => {
    const own = samples.get(name);
    if (typeof own === "string") return `${name.padEnd(42)} ${own}`;
    if (own === undefined || own.length === 0) return name;
    const time = spreadOf(own.map(({ ms }) => ms));
    const rate = (memoryBytes / 2 ** 30 / time.median) * 1000;
    const ratios = [
      ratioText("QEMU", own, samples.get(baseline ?? "")),
      ratioText("fio", own, samples.get(disk ?? "")),
    ];
    const cpu = own.flatMap(({ cpuMs: value }) => (value === undefined ? [] : [value]));
    const extra = own.flatMap(({ extraBytes }) => (extraBytes === undefined ? [] : [extraBytes]));
    return [
      name.padEnd(42),
      `${time.median.toFixed(0).padStart(6)} ms (${time.min.toFixed(0)}-${time.max.toFixed(0)})`.padEnd(26),
      `${rate.toFixed(2)} GiB/s`.padStart(11),
      `sync ${spreadOf(own.map(({ syncMs }) => syncMs)).median.toFixed(0)}`.padEnd(10),
      (cpu.length === 0 ? "" : `cpu ${spreadOf(cpu).median.toFixed(0)} ms`).padEnd(12),
      (extra.length === 0 ? "" : `+${(spreadOf(extra).max / 2 ** 20).toFixed(0)} MiB`).padEnd(9),
      ...ratios,
    ].join(" ");
  });
  return lines.join("\n");
}

function ratioText(
  title: string,
  own: readonly EngineSample[],
  base: readonly EngineSample[] | string | undefined,
): string {
  if (typeof base !== "object" || base.length === 0) return "";
  const ratio = spreadOf(own.map(({ ms }, round) => (base[round]?.ms ?? NaN) / ms)).median;
  const best = spreadOf(base.map(({ ms }) => ms)).min / spreadOf(own.map(({ ms }) => ms)).min;
  return `x${ratio.toFixed(2)} of ${title} (best x${best.toFixed(2)})`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      size: { type: "string", default: "1G" },
      runs: { type: "string", default: "3" },
      dir: { type: "string", default: os.tmpdir() },
      only: { type: "string" },
      json: { type: "string" },
    },
  });
  const memoryBytes = Number.parseInt(values.size, 10) * (values.size.endsWith("G") ? 2 ** 30 : 2 ** 20);
  const directory = await fs.mkdtemp(path.join(values.dir, "ramport-engine-"));
  try {
    const setting = await prepareEngineRows(memoryBytes, directory);
    const rows = ENGINE_ROWS.filter(({ name }) => name.includes(values.only ?? ""));
    const samples = await measureEngineRows(setting, rows, Number(values.runs));
    console.log(formatEngineRows(rows, samples, memoryBytes));
    if (values.json !== undefined)
      await fs.writeFile(values.json, JSON.stringify(Object.fromEntries(samples), null, 2));
  } finally {
    await killAllQemus();
    await fs.rm(directory, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
