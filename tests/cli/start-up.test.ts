/** `ramport --version` takes hardly longer than Node itself: scripts ask for it often. */

import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import process from "node:process";
import { expect, test } from "vitest";

import { CLI_MAIN } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const RUNS = 9;
const RATIO_LIMIT = 1.5;
/** Against noise where Node starts in very little time. */
const SLACK_MS = 15;

function timeOf(args: readonly string[]): number {
  const startMs = performance.now();
  expect(spawnSync(process.execPath, args).status).toBe(0);
  return performance.now() - startMs;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

test("--version starts as an empty program does", { retry: 2 }, () => {
  const empty = workDir.file("empty.mjs");
  writeFileSync(empty, "");
  // Taken in turn, so that a busy moment hits both.
  const base: number[] = [];
  const version: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    base.push(timeOf([empty]));
    version.push(timeOf([CLI_MAIN, "--version"]));
  }
  expect(median(version)).toBeLessThan(median(base) * RATIO_LIMIT + SLACK_MS);
});
