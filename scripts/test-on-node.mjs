// Runs the unit tests on another Node: `node scripts/test-on-node.mjs 24`. The npm package `node` carries the binaries.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const versions = process.argv.length > 2 ? process.argv.slice(2) : ["24"];

/**
 * Runs a command with this terminal, and ends the script when it fails.
 *
 * @param {string} command
 * @param {string[]} args
 */
function run(command, args) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

for (const version of versions) {
  const folder = path.join(root, ".cache", "node", version);
  const binary = path.join(folder, "node_modules", "node", "bin", "node");
  if (!existsSync(binary)) {
    console.log(`Fetching Node ${version} from npm ...`);
    run("npm", ["install", "--no-save", "--no-audit", "--no-fund", "--prefix", folder, `node@${version}`]);
  }
  console.log(`Unit tests on Node ${version}:`);
  run(binary, [path.join(root, "node_modules", "vitest", "vitest.mjs"), "run", "--project", "unit"]);
}
