import os from "node:os";

import { Command, InvalidArgumentError } from "commander";

import type { FreeMemory } from "./free-memory.js";
import type { CacheState } from "./page-cache.js";

/** What there is to measure, in the order in which it is. */
export const PARTS = ["capture", "restore", "content", "inspect", "engine", "sparse", "lazy"] as const;

/** One of {@link PARTS}. */
export type Part = (typeof PARTS)[number];

/** What to measure, and how. */
export interface Options {
  /** RAM of the guests, in bytes. */
  readonly size: readonly number[];
  /** The same for the part `lazy`: its goals are for these sizes. */
  readonly lazySize: readonly number[];
  readonly cache: readonly CacheState[];
  readonly part: readonly Part[];
  readonly runs: number;
  readonly freeMemory: FreeMemory;
  readonly dir: string;
  readonly only?: string;
  readonly analyze?: string;
  readonly json?: string;
}

const GIB = 2 ** 30;
const LAZY_SIZES = [2 * GIB, 6 * GIB];
const DEFAULT_RUNS = 5;
const QUICK_RUNS = 2;

/**
 * Reads the command line.
 *
 * @param argv Arguments alone.
 */
export function parseOptions(argv: readonly string[]): Options {
  const program = new Command("bench")
    .description("Compares ramport with QEMU's own ways of saving, loading and reading, in one run.")
    .option(
      "--size <list>",
      "guest memory, such as 1G,4G,8G (the default; 2G,6G for lazy) or 512M",
      listOf(parseSize),
      [1, 4, 8].map((size) => size * GIB),
    )
    .option("--cache <list>", "page cache: warm, cold (default: both)", listOf(oneOf(["warm", "cold"])), [
      "warm",
      "cold",
    ])
    .option("--part <list>", `of ${PARTS.join(", ")} (default: all)`, listOf(oneOf(PARTS)), [...PARTS])
    .option("--runs <count>", "measured rounds", parseRuns, DEFAULT_RUNS)
    .option(
      "--free-memory <state>",
      "held: at hand, as on a machine of its own; any: as it is, wherever a host has taken it",
      oneOf(["held", "any"]),
      "held" as const,
    )
    .option(
      "--quick",
      `1 GiB, warm, ${QUICK_RUNS} rounds, no guest of 64 GiB: what is given beside it counts`,
    )
    .option("--dir <folder>", "where the files go", os.tmpdir())
    .option("--analyze <path>", "QEMU's analyze-migration.py; fetched when not given")
    .option("--only <text>", "only rows whose `part: name` contains this, and what they are compared with")
    .option("--json <file>", "write the results there too, each sample of them")
    .parse(argv, { from: "user" });
  const { quick = false, ...options } = program.opts<
    Omit<Options, "lazySize"> & { readonly quick?: boolean }
  >();
  const isGiven = (name: string): boolean => program.getOptionValueSource(name) === "cli";
  const lazySize = isGiven("size") ? options.size : LAZY_SIZES.slice(0, quick ? 1 : undefined);
  if (!quick) return { ...options, lazySize };
  return {
    ...options,
    lazySize,
    ...(isGiven("size") ? {} : { size: [GIB] }),
    ...(isGiven("cache") ? {} : { cache: ["warm"] }),
    ...(isGiven("runs") ? {} : { runs: QUICK_RUNS }),
    ...(isGiven("part") ? {} : { part: PARTS.filter((part) => part !== "sparse") }),
  };
}

function listOf<T>(parse: (text: string) => T): (text: string) => T[] {
  return (text) => text.split(",").map(parse);
}

function oneOf<T extends string>(words: readonly T[]): (text: string) => T {
  return (text) => {
    const word = words.find((one) => one === text);
    if (word === undefined) throw new InvalidArgumentError(`One or more of ${words.join(", ")}.`);
    return word;
  };
}

function parseSize(text: string): number {
  const match = /^(\d+)([MG])$/.exec(text);
  if (match === null) throw new InvalidArgumentError("A size is a number with M or G behind it.");
  return Number(match[1]) * (match[2] === "G" ? GIB : 2 ** 20);
}

function parseRuns(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("A whole number of 1 or more.");
  return Number(text);
}
