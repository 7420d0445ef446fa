/**
 * Brings a fresh clone into the state that the demo and the tests need: packages, and the built library. Does nothing
 * where nothing is missing; says what it does where it takes time.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

/** Folder of the project. */
export const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

/** What could not be set up: a sentence for the user, nothing to debug. */
export class SetupError extends Error {}

/**
 * Packages and the built library: what a script calls first.
 *
 * @throws {SetupError}
 */
export function setUp() {
  ensureNode();
  ensurePackages();
  ensureBuilt();
}

/**
 * @throws {SetupError} when this Node is older than `engines` in package.json says.
 */
export function ensureNode() {
  /** @type {{ engines: { node: string } }} */
  const { engines } = JSON.parse(fs.readFileSync(path.join(PROJECT, "package.json"), "utf8"));
  const wanted = engines.node.replace(">=", "");
  if (compareVersions(process.versions.node, wanted) >= 0) return;
  throw new SetupError(`Node ${wanted} or newer is needed; this is ${process.versions.node}.`);
}

/**
 * Runs `npm ci` when there are no packages, or the lockfile has changed since they were installed.
 *
 * @throws {SetupError} when npm fails.
 */
export function ensurePackages() {
  const lock = modifiedMs(path.join(PROJECT, "package-lock.json"));
  // npm writes this one at the end of an installation.
  const installed = modifiedMs(path.join(PROJECT, "node_modules", ".package-lock.json"));
  if (installed !== undefined && (lock === undefined || installed >= lock)) return;
  say("Installing the packages (npm ci); this is needed once.");
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
  const own = process.env["npm_execpath"];
  // Run through npm itself where this script was: on Windows npm is no program but a shell script.
  const isNpm = own !== undefined && path.basename(own) === "npm-cli.js";
  const status = isNpm
    ? run(process.execPath, [own, ...args])
    : run("npm", args, process.platform === "win32");
  if (status !== 0) throw new SetupError("npm ci failed: the demo and the tests need the packages.");
}

/**
 * Builds `dist/` when it is missing or older than any source file.
 *
 * @throws {SetupError} when the compiler fails.
 */
export function ensureBuilt() {
  const built = modifiedMs(path.join(PROJECT, "dist", "index.js"));
  const sources = ["tsconfig.json", "tsconfig.build.json", "package-lock.json", "scripts/build.mjs"].map(
    (name) => modifiedMs(path.join(PROJECT, name)),
  );
  const newest = Math.max(newestMs(path.join(PROJECT, "src")), ...sources.map((time) => time ?? 0));
  if (built !== undefined && built >= newest) return;
  say("Building the library and the command line.");
  const status = run(process.execPath, [path.join(PROJECT, "scripts", "build.mjs")]);
  if (status !== 0) throw new SetupError("The library does not build.");
}

/** @param {string} text */
function say(text) {
  console.error(text);
}

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {boolean} [shell]
 * @returns {number | null}
 */
function run(command, args, shell = false) {
  // Standard output belongs to the script that called.
  return spawnSync(command, args, { cwd: PROJECT, stdio: ["ignore", 2, 2], shell }).status;
}

/**
 * @param {string} file
 * @returns {number | undefined}
 */
function modifiedMs(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs;
}

/**
 * Newest file or folder below a folder: a folder changes when a file in it goes away.
 *
 * @param {string} folder
 * @returns {number}
 */
function newestMs(folder) {
  let newest = modifiedMs(folder) ?? 0;
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const full = path.join(folder, entry.name);
    newest = Math.max(newest, entry.isDirectory() ? newestMs(full) : (modifiedMs(full) ?? 0));
  }
  return newest;
}

/**
 * @param {string} one
 * @param {string} other
 * @returns {number} below, at or above 0 as `one` is older, the same or newer
 */
export function compareVersions(one, other) {
  const [a, b] = [one, other].map((version) => version.split(".").map(Number));
  for (let index = 0; index < 3; index++) {
    const difference = (a?.[index] ?? 0) - (b?.[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
