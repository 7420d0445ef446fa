/**
 * Compares ramport with QEMU's own ways of saving and loading, on one stopped guest, and with other ways of reading the
 * files, in one run.
 *
 * @module
 */

import fs from "node:fs/promises";
import os from "node:os";
import path from "node:path";

import { Command, InvalidArgumentError, Option } from "commander";

import { killAllQemus } from "../tests/support/qemu.js";
import { machineOptions, startSource } from "./guest.js";
import { prepareRead, READ_ROWS, type ReadRow, type ReadSetting } from "./read-rows.js";
import { formatReadTable, reportReadRows } from "./read-report.js";
import { describeSurroundings, formatTable, reportRows, type Surroundings } from "./report.js";
import { type Row, ROWS, saveWithQemu, type Setting } from "./rows.js";
import type { Sample } from "./sample.js";

/** Rounds of what takes many seconds. */
const SLOW_RUNS = 2;

interface Options {
  readonly size: number;
  readonly runs: number;
  readonly dir: string;
  readonly part?: "save" | "read";
  readonly only?: string;
  readonly analyze?: string;
  readonly json?: string;
}

function parseSize(text: string): number {
  const match = /^(\d+)([MG])$/.exec(text);
  if (match === null) throw new InvalidArgumentError("A size is a number with M or G behind it.");
  return Number(match[1]) * (match[2] === "G" ? 2 ** 30 : 2 ** 20);
}

function parseRuns(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("A whole number of 1 or more.");
  return Number(text);
}

/** Row after row, and that again: whatever disturbs the machine disturbs all rows. */
async function measureRounds(
  setting: Setting,
  rows: readonly Row[],
  runs: number,
): Promise<ReadonlyMap<string, readonly Sample[]>> {
  const samples = new Map<string, Sample[]>(rows.map(({ name }) => [name, []]));
  // Round 0 is not counted: QEMU's first migrations allocate what later ones reuse.
  for (let round = 0; round <= runs; round++) {
    for (const row of rows) {
      process.stderr.write(`round ${round} of ${runs}: ${row.name}\n`);
      const sample = await row.measure(setting);
      if (round > 0) samples.get(row.name)?.push(sample);
    }
  }
  return samples;
}

/** As above. A row that cannot be measured says why, and slow rows have fewer rounds. */
async function measureReading(
  setting: ReadSetting,
  rows: readonly ReadRow[],
  runs: number,
): Promise<ReadonlyMap<string, Sample[] | string>> {
  const samples = new Map<string, Sample[] | string>(rows.map(({ name }) => [name, []]));
  for (let round = 0; round <= runs; round++) {
    for (const row of rows) {
      const own = samples.get(row.name);
      if (typeof own !== "object" || (row.isSlow === true && (round === 0 || round > SLOW_RUNS))) continue;
      process.stderr.write(`round ${round} of ${runs}: ${row.name}\n`);
      const sample = await row.measure(setting);
      if (typeof sample === "string") samples.set(row.name, sample);
      else if (round > 0) own.push(sample);
    }
  }
  return samples;
}

async function prepare({ size, dir }: Options): Promise<Setting> {
  const directory = await fs.mkdtemp(path.join(dir, "ramport-bench-"));
  const machine = machineOptions(size, directory);
  process.stderr.write("filling the guest's memory\n");
  const source = await startSource(machine);
  const setting = {
    source,
    machine,
    directory,
    stream: path.join(directory, "stream"),
    mapped: path.join(directory, "mapped"),
  };
  await saveWithQemu(source, {}, `exec:cat>${setting.stream}`);
  await saveWithQemu(source, { "mapped-ram": true }, `file:${setting.mapped}`);
  return setting;
}

function printSurroundings(where: Surroundings, ramBytes: number): void {
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  console.log(`${where.cpu}, ${where.cores} cores, ${gib(where.memoryBytes)}; ${where.kernel}`);
  console.log(`Node ${where.node}, QEMU ${where.qemu}, files on ${where.fileSystem}`);
  console.log(`Guest of ${gib(ramBytes)}, stopped; warm page cache; median (lowest–highest)\n`);
}

function selectRows<T extends Pick<Row, "name"> & { readonly group: string }>(
  rows: readonly T[],
  only: string | undefined,
): readonly T[] {
  return only === undefined ? rows : rows.filter(({ name, group }) => `${group}: ${name}`.includes(only));
}

async function main(options: Options): Promise<void> {
  const { part, only, runs, size } = options;
  const saveRows = part === "read" ? [] : selectRows(ROWS, only);
  const readRows = part === "save" ? [] : selectRows(READ_ROWS, only);
  const setting = await prepare(options);
  try {
    const surroundings = describeSurroundings(setting.directory);
    printSurroundings(surroundings, size);
    const reports = reportRows(saveRows, await measureRounds(setting, saveRows, runs), size);
    if (reports.length > 0) console.log(formatTable(reports));
    await setting.source.kill();
    const reading = readRows.length === 0 ? undefined : await prepareRead(setting, options.analyze);
    const readReports =
      reading === undefined ? [] : reportReadRows(readRows, await measureReading(reading, readRows, runs));
    if (readReports.length > 0) console.log(`\n${formatReadTable(readReports)}`);
    if (options.json !== undefined) {
      const result = { surroundings, ramBytes: size, runs, rows: reports, readRows: readReports };
      await fs.writeFile(options.json, `${JSON.stringify(result, null, 2)}\n`);
    }
  } finally {
    await killAllQemus();
    await fs.rm(setting.directory, { recursive: true, force: true });
  }
}

const program = new Command("bench")
  .description("Compares ramport with QEMU's own ways of saving, loading and reading.")
  .option("--size <bytes>", "guest memory, such as 512M or 4G", parseSize, 2 ** 30)
  .option("--runs <count>", "measured rounds", parseRuns, 4)
  .option("--dir <folder>", "where the files go", os.tmpdir())
  .addOption(new Option("--part <name>", "only this part").choices(["save", "read"]))
  .option("--analyze <path>", "QEMU's analyze-migration.py; fetched when not given")
  .option("--only <text>", "only rows whose group and name contain this, such as `save:` or `restore:`")
  .option("--json <file>", "write the results there too")
  .parse();
await main(program.opts<Options>());
