import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { findAnalyzer } from "../tests/support/find-qemu.js";
import { writeDenseStream } from "./dense-stream.js";
import { warmFreeMemory } from "./free-memory.js";
import { machineOptions, startSource } from "./guest.js";
import type { RamportJob } from "./ramport-process.js";
import { saveWithQemu, type Setting, timeSync, withOutput } from "./rows.js";
import { runRamport } from "./run-ramport.js";
import type { Sample } from "./sample.js";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));
const PROGRAM = path.join(PROJECT, "dist", "cli", "main.js");
/** The large guest. */
const LARGE_BYTES = 8 * 2 ** 30;
/** So much of the large guest's memory has content: filling it takes time, and only the stream is made dense. */
const LARGE_CONTENT_BYTES = 2 ** 30;
const LONGEST_REASON = 80;

/** The files to read, all in the page cache. */
export interface ReadSetting extends Omit<Setting, "source"> {
  /** Of a guest of 8 GiB; each page of its RAM has content in the stream. */
  readonly largeStream: string;
  readonly largeMapped: string;
  /** QEMU's script, or why there is none. */
  readonly analyzer: { readonly path: string } | { readonly missing: string };
}

/** One line of the second table. */
export interface ReadRow {
  readonly name: string;
  readonly group: "inspect" | "content";
  /** Name of the row that this one is compared with; none for that row itself. */
  readonly baseline?: string;
  /** Takes many seconds: fewer rounds, and no first one that is not counted. */
  readonly isSlow?: boolean;
  /** Returns why, when it cannot be measured. */
  measure(setting: ReadSetting): Promise<Sample | string>;
}

type Input = "stream" | "mapped" | "largeStream" | "largeMapped";

const INPUTS: readonly (readonly [Input, string])[] = [
  ["stream", "stream"],
  ["largeStream", "dense stream of 8 GiB"],
  ["mapped", "mapped-ram"],
  ["largeMapped", "mapped-ram of 8 GiB"],
];

/** All rows, in the order in which each round goes through them. */
export const READ_ROWS: readonly ReadRow[] = [
  ...INPUTS.flatMap(([input, label]): ReadRow[] => {
    const baseline = `analyze-migration.py: ${label}`;
    return [
      { name: baseline, group: "inspect", isSlow: true, measure: (setting) => analyze(setting, input) },
      {
        name: `ramport inspect: ${label}`,
        group: "inspect",
        baseline,
        measure: (setting) => timeCommand(process.execPath, [PROGRAM, "inspect", "--json", setting[input]]),
      },
    ];
  }),
  ...contentRows("stream", "mapped-ram"),
  ...contentRows("mapped", "stream"),
];

function contentRows(input: "stream" | "mapped", to: "stream" | "mapped-ram"): ReadRow[] {
  const label = input === "stream" ? "stream" : "mapped-ram";
  const baseline = `cp --sparse=always: ${label}`;
  const byRamport =
    (jobOf: (input: string, output: string) => RamportJob): ReadRow["measure"] =>
    (setting) =>
      withOutput(setting.directory, async (output) => {
        const ramport = await runRamport(jobOf(setting[input], output), () => {
          warmFreeMemory(setting.directory, setting.machine.memoryBytes);
        });
        const { wholeMs, syncMs } = ramport;
        return { moveMs: wholeMs - syncMs, syncMs, wholeMs, ramport };
      });
  return [
    { name: baseline, group: "content", measure: (setting) => copySparse(setting, input) },
    {
      name: `ramport extract pc.ram: ${label}`,
      group: "content",
      baseline,
      measure: byRamport((file, output) => ({ kind: "extract", input: file, block: "pc.ram", output })),
    },
    {
      name: `ramport convert: ${label} to ${to}`,
      group: "content",
      baseline,
      measure: byRamport((file, output) => ({ kind: "convert", input: file, to, output })),
    },
  ];
}

/** Adds the large guest's files, and QEMU's script. */
export async function prepareRead(setting: Setting, analyzer: string | undefined): Promise<ReadSetting> {
  await fs.access(PROGRAM).catch((cause: unknown) => {
    throw new Error(`${PROGRAM} is not there; npm run build makes it`, { cause });
  });
  const { directory } = setting;
  const large = machineOptions(LARGE_BYTES, directory, LARGE_CONTENT_BYTES);
  process.stderr.write("making the files of a large guest\n");
  const source = await startSource(large);
  const largeStream = path.join(directory, "large-stream");
  const largeMapped = path.join(directory, "large-mapped");
  const thinStream = path.join(directory, "thin-stream");
  await saveWithQemu(source, {}, `exec:cat>${thinStream}`);
  await saveWithQemu(source, { "mapped-ram": true }, `file:${largeMapped}`);
  await source.kill();
  await writeDenseStream(thinStream, largeStream);
  await fs.rm(thinStream);
  return { ...setting, largeStream, largeMapped, analyzer: chooseAnalyzer(analyzer) };
}

function chooseAnalyzer(named: string | undefined): ReadSetting["analyzer"] {
  const python = spawnSync("python3", ["--version"]);
  if (python.status !== 0) return { missing: "no python3" };
  if (named !== undefined) return { path: named };
  const analyzer = findAnalyzer();
  if ("path" in analyzer) return analyzer;
  return { missing: analyzer.missing.split("\n").at(-1) ?? "not fetched" };
}

async function analyze(setting: ReadSetting, input: Input): Promise<Sample | string> {
  const { analyzer } = setting;
  if ("missing" in analyzer) return analyzer.missing;
  try {
    return await timeCommand("python3", [analyzer.path, "-f", setting[input]]);
  } catch (error) {
    if (error instanceof CommandFailed) return error.message;
    throw error;
  }
}

function copySparse(setting: ReadSetting, input: "stream" | "mapped"): Promise<Sample> {
  const { directory, machine } = setting;
  return withOutput(directory, async (output) => {
    warmFreeMemory(directory, machine.memoryBytes);
    const { moveMs } = await timeCommand("cp", ["--sparse=always", setting[input], output]);
    const syncMs = await timeSync(output);
    return { moveMs, syncMs, wholeMs: moveMs + syncMs };
  });
}

/** A command that ended with another status than 0. */
class CommandFailed extends Error {}

/** Runs a command whose output nobody reads, from its start to its end. */
function timeCommand(command: string, args: readonly string[]): Promise<Sample> {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
    let complaint = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text));
    child.once("error", reject);
    child.once("close", (code) => {
      const moveMs = performance.now() - start;
      if (code === 0) resolve({ moveMs, syncMs: 0, wholeMs: moveMs });
      else reject(new CommandFailed(reasonOf(complaint) ?? `status ${String(code)}`));
    });
  });
}

/** The first error of a Python program: those behind it come from its handling. A whole description may be in one. */
function reasonOf(complaint: string): string | undefined {
  const lines = complaint.trim().split("\n");
  const reason = lines.find((line) => /^\w*(Error|Exception)\b/.test(line)) ?? lines.at(-1);
  return reason?.slice(0, LONGEST_REASON);
}
