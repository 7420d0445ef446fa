/**
 * Builds `dist/`: the library with the compiler, a file a module; the command line as few files, because a process that ends
 * in a tenth of a second spends most of it on finding and loading modules. What a command does not need is in files that it
 * does not load.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const DIST = path.join(PROJECT, "dist");
const CLI = path.join(DIST, "cli");

function compileLibrary() {
  const compiler = path.join(PROJECT, "node_modules", "typescript", "bin", "tsc");
  // Standard output belongs to whoever called.
  const { status } = spawnSync(process.execPath, [compiler, "-p", "tsconfig.build.json"], {
    cwd: PROJECT,
    stdio: ["ignore", 2, 2],
  });
  return status ?? 1;
}

/** What a build that failed must not leave, as it was before: what is run, and what says that there was a build. */
function removeOutdated() {
  fs.rmSync(CLI, { recursive: true, force: true });
  fs.rmSync(path.join(DIST, "index.js"), { force: true });
}

async function bundleCommandLine() {
  // The names of most files change with their content.
  fs.rmSync(CLI, { recursive: true, force: true });
  await esbuild.build({
    absWorkingDir: PROJECT,
    entryPoints: {
      main: path.join("src", "cli", "main.ts"),
      // A thread's own file: it is looked for beside the one that starts it.
      "postcopy-worker": path.join("src", "hosts", "userfaultfd", "postcopy-worker.ts"),
    },
    outdir: CLI,
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    packages: "external",
    sourcemap: true,
    logLevel: "warning",
  });
  fs.chmodSync(path.join(CLI, "main.js"), 0o755);
}

const status = compileLibrary();
if (status !== 0) {
  removeOutdated();
  process.exit(status);
}
try {
  await bundleCommandLine();
} catch (error) {
  removeOutdated();
  throw error;
}
// The compiler leaves a file that would not change alone, and its time tells whether a build is needed.
const now = new Date();
fs.utimesSync(path.join(DIST, "index.js"), now, now);
