/**
 * Finds the QEMU binaries that tests, the benchmark and the demo run.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { array, nullable, object, parse, string } from "valibot";

const REPO = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..", "..");

/** The versions that ramport is tested with. */
export const QEMU_VERSIONS = ["7.2", "10.0", "11.1"] as const;

/** One of {@link QEMU_VERSIONS}. */
export type QemuVersion = (typeof QEMU_VERSIONS)[number];

/** A QEMU that can be started: run `command` with `args`, then the machine's own arguments, and `env` added. */
export interface FoundQemu {
  readonly found: true;
  /** What was asked for. */
  readonly version: QemuVersion;
  /** What the binary says it is: `10.0.2`. */
  readonly realVersion: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Why there is none. */
export interface NoQemu {
  readonly found: false;
  readonly reason: string;
}

/** What scripts/fetch-qemu.mjs leaves; the paths are relative to its folder. */
const Manifest = object({
  fullVersion: string(),
  loader: string(),
  libraryPath: array(string()),
  binary: string(),
  firmware: array(string()),
  modules: nullable(string()),
});

/**
 * Looks for a QEMU, in this order: the binary that `RAMPORT_QEMU_7_2` (`_10_0`, `_11_1`) names, the one that
 * `RAMPORT_QEMU` names for every version, the cache that `scripts/fetch-qemu.mjs` fills.
 */
export function findQemu(version: QemuVersion): FoundQemu | NoQemu {
  const variable = `RAMPORT_QEMU_${version.replace(".", "_")}`;
  const own = process.env[variable];
  if (own !== undefined && own !== "") {
    const found = probeBinary(version, own);
    if (found.found && !found.realVersion.startsWith(`${version}.`)) {
      return { found: false, reason: `${variable} names a QEMU ${found.realVersion}` };
    }
    return found;
  }
  const general = process.env.RAMPORT_QEMU;
  if (general !== undefined && general !== "") return probeBinary(version, general);
  return findInCache(version);
}

/** QEMU's `analyze-migration.py`, fetched if need be, where there is a python3 to run it; or all that is said of why not. */
export function findAnalyzer(): { readonly path: string } | { readonly missing: string } {
  const python = spawnSync("python3", ["--version"]);
  if (python.status !== 0) return { missing: "there is no python3" };
  const script = path.join(REPO, "scripts", "fetch-qemu.mjs");
  const fetched = spawnSync(process.execPath, [script, "--analyzer"], { encoding: "utf8" });
  const found = fetched.stdout.trim().split("\n").at(-1);
  if (fetched.status !== 0 || found === undefined || found === "") return { missing: fetched.stderr.trim() };
  return { path: found };
}

function findInCache(version: QemuVersion): FoundQemu | NoQemu {
  const cache = process.env.RAMPORT_QEMU_CACHE ?? path.join(REPO, ".cache", "qemu");
  const folder = path.resolve(cache, version);
  const file = path.join(folder, "qemu.json");
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return { found: false, reason: `no QEMU ${version}; run: node scripts/fetch-qemu.mjs ${version}` };
  }
  const manifest = parse(Manifest, JSON.parse(text));
  const full = (name: string): string => path.join(folder, name);
  return {
    found: true,
    version,
    realVersion: manifest.fullVersion,
    command: full(manifest.loader),
    args: [
      "--library-path",
      manifest.libraryPath.map(full).join(":"),
      full(manifest.binary),
      ...manifest.firmware.flatMap((name) => ["-L", full(name)]),
    ],
    env: manifest.modules === null ? {} : { QEMU_MODULE_DIR: full(manifest.modules) },
  };
}

function probeBinary(version: QemuVersion, binary: string): FoundQemu | NoQemu {
  const result = spawnSync(binary, ["--version"], { encoding: "utf8", timeout: 30_000 });
  if (result.error !== undefined) return { found: false, reason: `${binary}: ${result.error.message}` };
  const realVersion = /version (\d+\.\d+\.\d+)/.exec(result.stdout)?.[1];
  if (realVersion === undefined) return { found: false, reason: `${binary} does not say that it is a QEMU` };
  return { found: true, version, realVersion, command: binary, args: [], env: {} };
}
