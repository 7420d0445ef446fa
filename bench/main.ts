/**
 * Compares ramport with QEMU's own ways of saving and loading, and with other ways of reading and copying the files: rows
 * take turns, and each table is of one run. docs/benchmarks.md says what the rows mean.
 *
 * @module
 */

import { mkdtempSync, rmSync } from "node:fs";
import fs from "node:fs/promises";
import path from "node:path";

import { killAllQemus } from "../tests/support/qemu.js";
import { CAPTURE_ROWS } from "./capture-rows.js";
import { CONTENT_ROWS, prepareContent } from "./content-rows.js";
import { ENGINE_ROWS, prepareEngineRows } from "./engine-rows.js";
import { type InstantRowReport, formatInstant, reportInstant } from "./instant-report.js";
import { INSTANT_ROWS } from "./instant-rows.js";
import type { InstantSample } from "./instant-sample.js";
import { prepareInstant } from "./instant-setting.js";
import { useFreeMemory } from "./free-memory.js";
import { machineOptions, startSource } from "./guest.js";
import { INSPECT_ROWS, prepareInspect } from "./inspect-rows.js";
import { type Options, parseOptions, type Part } from "./options.js";
import { type CacheState, whyNeverCold } from "./page-cache.js";
import { formatTable, reportRows, type RowReport } from "./report.js";
import { RESTORE_ROWS } from "./restore-rows.js";
import { type Measured, measureRounds, type Row, selectRows } from "./row.js";
import type { Setting, SourceSetting } from "./rows.js";
import { prepareSparse, saveInputs, SPARSE_ROWS } from "./sparse-rows.js";
import { describeSurroundings, formatSurroundings, type Surroundings } from "./surroundings.js";

/** One table. */
interface Table {
  readonly part: Part;
  /** RAM of the guest; the part `sparse` has two guests. */
  readonly ramBytes?: number;
  readonly dataBytes?: number;
  readonly cache: CacheState;
  readonly rows: readonly RowReport[] | readonly InstantRowReport[];
}

class Bench {
  readonly #options: Options;
  readonly #directory: string;
  readonly #surroundings: Surroundings;
  readonly #tables: Table[] = [];
  readonly #instant: Record<CacheState, Map<number, Measured<InstantSample>>> = {
    warm: new Map(),
    cold: new Map(),
  };

  constructor(options: Options, directory: string) {
    this.#options = options;
    this.#directory = directory;
    this.#surroundings = describeSurroundings(directory);
    console.log(formatSurroundings(this.#surroundings));
  }

  async run(): Promise<void> {
    for (const size of this.#options.size) {
      if (this.#wantsAny("capture", "restore", "content", "inspect")) await this.#measureGuest(size);
      if (this.#wantsAny("engine")) await this.#measureEngine(size);
    }
    if (this.#wantsAny("lazy")) {
      for (const size of this.#options.lazySize) await this.#measureInstant(size);
    }
    if (this.#wantsAny("sparse")) await this.#measureSparse();
  }

  async #measureGuest(size: number): Promise<void> {
    const directory = await this.#makeFolder("guest");
    const machine = machineOptions(size, directory);
    process.stderr.write(`filling the memory of a guest of ${gib(size)}\n`);
    const source = await startSource(machine);
    const files = { stream: path.join(directory, "stream"), mapped: path.join(directory, "mapped") };
    const dataBytes = await saveInputs(source, files);
    const setting: SourceSetting = { source, machine, directory, ...files, dataBytes, cache: "warm" };
    // Capturing reads no file: there is one state of the page cache.
    if (this.#wantsAny("capture")) await this.#measure(factsOf("capture", setting), CAPTURE_ROWS, setting);
    await source.kill();
    for (const cache of this.#options.cache) {
      const never = cache === "cold" ? whyNeverCold(files.mapped) : undefined;
      if (never === undefined) await this.#measureFiles({ ...setting, cache });
      else console.log(`\nCold page cache: not measured: ${never}`);
    }
    await fs.rm(directory, { recursive: true });
  }

  async #measureFiles(setting: Setting): Promise<void> {
    if (this.#wantsAny("restore")) await this.#measure(factsOf("restore", setting), RESTORE_ROWS, setting);
    if (this.#wantsAny("content")) {
      const content = await prepareContent(setting);
      await this.#measure(factsOf("content", setting), CONTENT_ROWS, content);
      await fs.rm(content.mappedCopy);
    }
    if (this.#wantsAny("inspect")) {
      const inspect = await prepareInspect(setting, this.#options.analyze);
      await this.#measure(factsOf("inspect", setting), INSPECT_ROWS, inspect);
      await fs.rm(inspect.denseStream);
    }
  }

  async #measureEngine(size: number): Promise<void> {
    const directory = await this.#makeFolder("engine");
    const setting = await prepareEngineRows(size, directory);
    await this.#measure({ part: "engine", ramBytes: size, cache: "warm" }, ENGINE_ROWS, setting);
    await setting.source.kill();
    await fs.rm(directory, { recursive: true });
  }

  async #measureSparse(): Promise<void> {
    const directory = await this.#makeFolder("sparse");
    process.stderr.write("making two guests with 1 GiB of content\n");
    const setting = await prepareSparse(directory);
    await this.#measure({ part: "sparse", cache: "warm" }, SPARSE_ROWS, setting);
    await setting.small.source.kill();
    await setting.wide.source.kill();
    await fs.rm(directory, { recursive: true });
  }

  async #measureInstant(size: number): Promise<void> {
    const directory = await this.#makeFolder("lazy");
    process.stderr.write(`filling the memory of a guest of ${gib(size)}\n`);
    const made = await prepareInstant(size, directory);
    const { only, runs } = this.#options;
    const rows = selectRows("lazy", INSTANT_ROWS, only);
    for (const cache of this.#options.cache) {
      const never = cache === "cold" ? whyNeverCold(made.mapped) : undefined;
      if (never !== undefined) {
        console.log(`\nCold page cache: not measured: ${never}`);
        continue;
      }
      const setting = { ...made, cache };
      const samples = await measureRounds(setting, rows, runs, `lazy, ${gib(size)}, ${cache}`);
      this.#instant[cache].set(size, samples);
      const reports = reportInstant(rows, size, this.#instant[cache]);
      await this.#print({ ...factsOf("lazy", setting), rows: reports }, formatInstant(reports));
    }
    await fs.rm(directory, { recursive: true });
  }

  async #measure<S>(facts: Omit<Table, "rows">, rows: readonly Row<S>[], setting: S): Promise<void> {
    const { only, runs } = this.#options;
    const { part, ramBytes, cache } = facts;
    const selected = selectRows(part, rows, only);
    if (selected.length === 0) return;
    const place = [part, ...(ramBytes === undefined ? [] : [gib(ramBytes)]), cache].join(", ");
    const samples = await measureRounds(setting, selected, runs, place);
    const reports = reportRows(selected, samples, cache === "warm");
    await this.#print({ ...facts, rows: reports }, formatTable(reports));
  }

  async #print(table: Table, formatted: string): Promise<void> {
    this.#tables.push(table);
    console.log(`\n${formatTitle(table, this.#options.runs)}\n\n${formatted}`);
    // After each table: a long run that is ended leaves what it had.
    await this.#writeJson();
  }

  async #writeJson(): Promise<void> {
    const { json, runs } = this.#options;
    if (json === undefined) return;
    const result = { surroundings: this.#surroundings, runs, tables: this.#tables };
    await fs.writeFile(json, `${JSON.stringify(result, null, 2)}\n`);
  }

  #wantsAny(...parts: readonly Part[]): boolean {
    return parts.some((part) => this.#options.part.includes(part));
  }

  async #makeFolder(name: string): Promise<string> {
    const folder = path.join(this.#directory, name);
    await fs.mkdir(folder);
    return folder;
  }
}

function factsOf(
  part: Part,
  { machine, dataBytes, cache }: Pick<Setting, "machine" | "dataBytes" | "cache">,
): Omit<Table, "rows"> {
  return { part, ramBytes: machine.memoryBytes, dataBytes, cache };
}

function gib(bytes: number): string {
  return `${Number((bytes / 2 ** 30).toFixed(2))} GiB`;
}

function formatTitle({ part, ramBytes, dataBytes, cache }: Table, runs: number): string {
  const guest = ramBytes === undefined ? "" : `, guest of ${gib(ramBytes)}`;
  const data = dataBytes === undefined ? "" : ` with ${gib(dataBytes)} of content`;
  return `**${part}${guest}${data}, ${cache} page cache, ${runs} ${runs === 1 ? "round" : "rounds"}**`;
}

const options = parseOptions(process.argv.slice(2));
useFreeMemory(options.freeMemory);
const directory = mkdtempSync(path.join(options.dir, "ramport-bench-"));
// Or the files stay when somebody ends a long run.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
try {
  await new Bench(options, directory).run();
} finally {
  await killAllQemus();
}
