/**
 * Runs the benchmark: `node scripts/bench.mjs [--quick] [--size 1G,4G,8G] [--cache warm,cold] [--part capture,restore]
 * [--runs 5] [--dir FOLDER] [--json FILE]`.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import path from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const main = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", "bench", "main.ts");
const result = spawnSync(process.execPath, ["--import", "tsx", main, ...process.argv.slice(2)], {
  stdio: "inherit",
});
process.exitCode = result.status ?? 1;
