/**
 * The command line of the corpus: `npm run make-corpus -- [--out DIR] [--only GLOB]`.
 *
 * @module
 */

import { mkdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { Command } from "commander";

import { printable } from "../src/errors/index.js";
import { makeFile, writeIndex } from "./make.js";
import { type Scenario, SCENARIOS } from "./scenarios.js";

const DEFAULT_FOLDER = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", ".cache", "made-corpus");

interface Options {
  readonly out: string;
  readonly only: string;
  readonly list?: boolean;
}

/**
 * Makes the files whose names fit.
 *
 * @returns The exit code: 0, 2 when no name fits, 3 when a file could not be made.
 */
export async function runMakeCorpus(args: readonly string[]): Promise<number> {
  const program = new Command("make-corpus")
    .description("Makes migration files with the real QEMUs in .cache/qemu, and an index of what is in them.")
    .option("--out <folder>", "where the files go", DEFAULT_FOLDER)
    .option("--only <glob>", "only files whose names fit, with * and ?", "*")
    .option("--list", "only print the names")
    .addHelpText(
      "after",
      '\nExamples:\n  npm run make-corpus -- --list\n  npm run make-corpus -- --only "q111-*"',
    )
    .parse(args, { from: "user" });
  const { out: folder, only, list } = program.opts<Options>();
  const scenarios = SCENARIOS.filter(({ name }) => fits(name, only));
  if (list === true) {
    for (const { name } of scenarios) console.log(name);
    return 0;
  }
  if (scenarios.length === 0) {
    console.error("No scenario has such a name; --list shows all of them.");
    return 2;
  }
  mkdirSync(folder, { recursive: true });
  let failures = 0;
  for (const scenario of scenarios) failures += (await makeOne(scenario, folder)) ? 0 : 1;
  return failures === 0 ? 0 : 3;
}

async function makeOne(scenario: Scenario, folder: string): Promise<boolean> {
  const started = performance.now();
  try {
    const outcome = await makeFile(scenario, folder);
    // After each file: what was made is of use when a later one fails.
    writeIndex(folder, [{ scenario, outcome }]);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const what =
      "facts" in outcome ? `${outcome.facts.bytes} bytes, ${seconds} s` : `left out: ${outcome.leftOut}`;
    console.log(`${scenario.name}: ${what}`);
    return true;
  } catch (error) {
    console.error(
      `${scenario.name}: failed: ${printable(error instanceof Error ? error.message : String(error))}`,
    );
    return false;
  }
}

/** Whether a name fits a pattern with `*` and `?`. */
function fits(name: string, pattern: string): boolean {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, String.raw`\$&`);
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`).test(name);
}
