/**
 * The command line of the corpus: `npm run make-corpus -- [--out DIR] [--only GLOB]`.
 *
 * @module
 */

import { mkdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { printable } from "../src/errors/index.js";
import { makeFile, writeIndex } from "./make.js";
import { type Scenario, SCENARIOS } from "./scenarios.js";

const DEFAULT_FOLDER = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", ".cache", "made-corpus");

/** Makes the files whose names fit; returns the exit code. */
export async function runMakeCorpus(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: { out: { type: "string" }, only: { type: "string" }, list: { type: "boolean" } },
  });
  const scenarios = SCENARIOS.filter(({ name }) => fits(name, values.only ?? "*"));
  if (values.list === true) {
    for (const { name } of scenarios) console.log(name);
    return 0;
  }
  if (scenarios.length === 0) {
    console.error("No scenario has such a name; --list shows all of them.");
    return 2;
  }
  const folder = values.out ?? DEFAULT_FOLDER;
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
