/**
 * Brings QEMU versions into a cache folder, without root and without touching the system.
 *
 *     node scripts/fetch-qemu.mjs [7.2] [10.0] [11.1]     fetch these (default: all)
 *     node scripts/fetch-qemu.mjs --print 10.0            print how a fetched one is started, as JSON
 *     node scripts/fetch-qemu.mjs --analyzer              fetch analyze-migration.py of 10.0, print its path
 *
 * The packages come from the Debian mirror that this machine's own apt is set up with. apt runs with a private
 * configuration: own lists, own cache, and an empty package status, so that it downloads the whole closure down to
 * libc. Everything is unpacked into one folder and started there through its own dynamic loader: a QEMU from a newer
 * Debian does not need the newer libraries on the system.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

import {
  exitStatusOf,
  FetchError,
  findMirror,
  findPackageField,
  run,
  runApt,
  say,
  writeAptConfig,
} from "./debian-packages.mjs";

/**
 * How a fetched QEMU is started; all paths are relative to the folder of the manifest, so that the cache can be moved.
 *
 * @typedef {object} Manifest
 * @property {string} version the asked for version: `7.2`, ...
 * @property {string} fullVersion what the binary says, `7.2.x`
 * @property {string} packageVersion version of the Debian package
 * @property {string} suite Debian suite
 * @property {string} loader dynamic loader
 * @property {string[]} libraryPath
 * @property {string} binary
 * @property {string[]} firmware folders for `-L`
 * @property {string | null} modules folder for QEMU_MODULE_DIR
 */

/** @typedef {{ suite: string, needs: string[] }} Source */

/** @type {ReadonlyMap<string, Source>} */
const SOURCES = new Map([
  ["7.2", { suite: "bookworm", needs: ["bookworm"] }],
  ["10.0", { suite: "bookworm-backports", needs: ["bookworm", "bookworm-backports"] }],
  ["11.1", { suite: "trixie-backports", needs: ["trixie", "trixie-backports"] }],
]);

const PACKAGE = "qemu-system-x86";
const MANIFEST = "qemu.json";
/** QEMU's own reader of streams: only the source package has it. */
const ANALYZER = { version: "10.0", member: "*/scripts/analyze-migration.py", name: "analyze-migration.py" };

/** What the packages bring and QEMU does not need. */
const DROPPED = [
  "usr/share/doc",
  "usr/share/man",
  "usr/share/locale",
  "usr/share/info",
  "usr/share/lintian",
  "usr/bin/qemu-system-i386",
  "usr/bin/qemu-system-x86_64-microvm",
  "var",
  "etc",
];

/** Where the packages put BIOS images and option ROMs. */
const FIRMWARE = [
  "usr/share/qemu",
  "usr/share/seabios",
  "usr/lib/ipxe/qemu",
  "usr/share/qemu-efi",
  "usr/share/vgabios",
];

/** @returns {string} */
function cacheFolder() {
  const repo = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
  return path.resolve(process.env["RAMPORT_QEMU_CACHE"] ?? path.join(repo, ".cache", "qemu"));
}

/**
 * @param {string} config
 * @param {string} version
 * @param {Source} source
 * @returns {string} version of the package
 */
function findQemuVersion(config, version, source) {
  const found = findPackageField(config, source.suite, PACKAGE, "Version");
  if (!new RegExp(`^${version.replaceAll(".", "\\.")}(?![0-9])`).test(found.replace(/^\d+:/, ""))) {
    throw new FetchError(`${source.suite} has QEMU ${found} now, not ${version}`);
  }
  return found;
}

/**
 * @param {string} archives
 * @param {string} target
 */
function unpack(archives, target) {
  const packages = fs.readdirSync(archives).filter((name) => name.endsWith(".deb"));
  if (packages.length === 0) throw new FetchError("apt-get downloaded nothing");
  say(`unpacking ${packages.length} packages`);
  for (const name of packages) {
    const file = path.join(archives, name);
    run("dpkg-deb", ["--extract", file, target]);
    fs.rmSync(file);
  }
  for (const name of DROPPED) fs.rmSync(path.join(target, name), { recursive: true, force: true });
}

/**
 * @param {string} target
 * @param {string} version
 * @param {string} packageVersion
 * @param {string} suite
 * @returns {Manifest}
 */
function describeFolder(target, version, packageVersion, suite) {
  /** @param {string} name */
  const has = (name) => fs.existsSync(path.join(target, name));
  /** @param {string} name @param {RegExp} pattern */
  const list = (name, pattern) =>
    has(name)
      ? fs
          .readdirSync(path.join(target, name))
          .filter((entry) => pattern.test(entry))
          .map((entry) => `${name}/${entry}`)
      : [];
  const libraryPath = ["usr/lib", "lib"].flatMap((name) => list(name, /-linux-gnu$/));
  // The file itself: the link to it in lib64 may be absolute and then leads to the system's own.
  const loader = libraryPath
    .flatMap((name) => list(name, /^ld-linux.*\.so\.\d+$/))
    .find((name) => fs.lstatSync(path.join(target, name)).isFile());
  if (loader === undefined) throw new FetchError("the packages hold no dynamic loader");
  // Some libraries keep private ones in a folder of their own, found by an absolute run path otherwise.
  const extra = libraryPath
    .flatMap((name) => ["pulseaudio", "systemd"].map((sub) => `${name}/${sub}`))
    .filter(has);
  const binary = "usr/bin/qemu-system-x86_64";
  if (!has(binary)) throw new FetchError(`the packages hold no ${binary}`);
  return {
    version,
    fullVersion: "",
    packageVersion,
    suite,
    loader,
    libraryPath: [...libraryPath, ...extra],
    binary,
    firmware: FIRMWARE.filter(has),
    modules: libraryPath.map((name) => `${name}/qemu`).find(has) ?? null,
  };
}

/**
 * @param {string} folder
 * @param {Manifest} manifest
 * @returns {{ command: string, args: string[], env: Record<string, string> }}
 */
function commandOf(folder, manifest) {
  /** @param {string} name */
  const full = (name) => path.join(folder, name);
  const firmware = manifest.firmware.flatMap((name) => ["-L", full(name)]);
  return {
    command: full(manifest.loader),
    args: ["--library-path", manifest.libraryPath.map(full).join(":"), full(manifest.binary), ...firmware],
    env: manifest.modules === null ? {} : { QEMU_MODULE_DIR: full(manifest.modules) },
  };
}

/**
 * Starts the binary: a missing library or firmware shows here, not in the first test.
 *
 * @param {string} folder
 * @param {Manifest} manifest
 * @returns {string} version it reports
 */
function probe(folder, manifest) {
  const { command, args, env } = commandOf(folder, manifest);
  const reported = /version (\d+\.\d+\.\d+)/.exec(run(command, [...args, "--version"], env))?.[1];
  if (!reported?.startsWith(`${manifest.version}.`)) {
    throw new FetchError(
      `the binary says that it is ${reported ?? "nothing known"}, not ${manifest.version}`,
    );
  }
  const machine = [
    "-accel",
    "tcg",
    "-machine",
    "pc",
    "-display",
    "none",
    "-S",
    "-monitor",
    "stdio",
    "-device",
    "VGA",
    "-device",
    "e1000",
  ];
  const result = spawnSync(command, [...args, ...machine], {
    input: "quit\n",
    encoding: "utf8",
    timeout: 60_000,
    env: { ...process.env, ...env },
  });
  if (result.status !== 0) {
    throw new FetchError(
      `the binary does not start a machine: ${result.stderr.trim().split("\n").at(-1) ?? "no reason given"}`,
    );
  }
  return reported;
}

/**
 * @param {string} folder
 * @returns {Manifest | undefined}
 */
function readManifest(folder) {
  try {
    return /** @type {Manifest} */ (JSON.parse(fs.readFileSync(path.join(folder, MANIFEST), "utf8")));
  } catch {
    return undefined;
  }
}

/**
 * Puts a finished folder in its place; another process may have been faster.
 *
 * @param {string} finished
 * @param {string} folder
 */
function moveIntoPlace(finished, folder) {
  for (let attempt = 0; ; attempt++) {
    try {
      fs.renameSync(finished, folder);
      return;
    } catch (error) {
      if (readManifest(folder) !== undefined) return;
      if (attempt > 0) throw error;
      fs.rmSync(folder, { recursive: true, force: true });
    }
  }
}

/**
 * @param {string} version
 * @param {Source} source
 */
function fetchVersion(version, source) {
  const cache = cacheFolder();
  const folder = path.join(cache, version);
  if (readManifest(folder) !== undefined) {
    say(`${version} is there already`);
    return;
  }
  const started = Date.now();
  fs.mkdirSync(cache, { recursive: true });
  const work = fs.mkdtempSync(path.join(cache, `.unfinished-${version}-`));
  try {
    const target = path.join(work, "root");
    fs.mkdirSync(target);
    const config = writeAptConfig(work, { mirror: findMirror(), suites: source.needs });
    say(`${version}: reading the package lists of ${source.needs.join(", ")}`);
    runApt(config, ["update", "-q", "--error-on=any"]);
    const packageVersion = findQemuVersion(config, version, source);
    say(`${version}: downloading ${PACKAGE} ${packageVersion} with all it depends on`);
    runApt(config, ["-q", "--download-only", "-y", "-t", source.suite, "install", PACKAGE]);
    unpack(path.join(work, "cache", "archives"), target);
    const manifest = describeFolder(target, version, packageVersion, source.suite);
    manifest.fullVersion = probe(target, manifest);
    fs.writeFileSync(path.join(target, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
    moveIntoPlace(target, folder);
    say(
      `${version}: QEMU ${manifest.fullVersion} is ready after ${((Date.now() - started) / 1000).toFixed(0)} s`,
    );
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
}

function fetchAnalyzer() {
  const cache = cacheFolder();
  const file = path.join(cache, ANALYZER.name);
  if (fs.existsSync(file)) {
    say(`${ANALYZER.name} is there already`);
    return;
  }
  fs.mkdirSync(cache, { recursive: true });
  const work = fs.mkdtempSync(path.join(cache, ".unfinished-analyzer-"));
  try {
    const { suite } = /** @type {Source} */ (SOURCES.get(ANALYZER.version));
    const config = writeAptConfig(work, { mirror: findMirror(), suites: [suite], kind: "deb-src" });
    say(`${ANALYZER.name}: downloading the source package of ${suite}, about 130 MB`);
    runApt(config, ["update", "-q", "--error-on=any"]);
    runApt(config, ["-q", "--download-only", "--tar-only", "source", "qemu"], work);
    const archive = fs
      .readdirSync(work)
      .find((name) => name.includes(`_${ANALYZER.version}.`) && /\.orig\.tar\.\w+$/.test(name));
    if (archive === undefined) throw new FetchError(`${suite} has no sources of QEMU ${ANALYZER.version}`);
    const unpacked = path.join(work, ANALYZER.name);
    fs.writeFileSync(unpacked, run("tar", ["-xf", archive, "--wildcards", ANALYZER.member, "-O"], {}, work));
    fs.renameSync(unpacked, file);
    say(`${ANALYZER.name} is ready`);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
}

/** @param {string} version */
function printManifest(version) {
  const folder = path.join(cacheFolder(), version);
  const manifest = readManifest(folder);
  if (manifest === undefined)
    throw new FetchError(`QEMU ${version} is not in the cache; run fetch-qemu ${version} first`);
  process.stdout.write(
    `${JSON.stringify({ ...manifest, folder, start: commandOf(folder, manifest) }, null, 2)}\n`,
  );
}

/**
 * @param {string[]} args
 * @returns {number} exit status
 */
function main(args) {
  const analyzer = args.length === 1 && args[0] === "--analyzer";
  const print = args[0] === "--print";
  const named = analyzer || print ? args.slice(1) : args;
  const versions = args.length === 0 ? [...SOURCES.keys()] : named;
  const unknown = versions.find((version) => !SOURCES.has(version));
  if (unknown !== undefined || (print && versions.length !== 1)) {
    say(`usage: fetch-qemu.mjs [--analyzer | --print] [${[...SOURCES.keys()].join("] [")}]`);
    return 2;
  }
  return exitStatusOf(() => {
    if (analyzer) {
      fetchAnalyzer();
      process.stdout.write(`${path.join(cacheFolder(), ANALYZER.name)}\n`);
    }
    for (const version of versions) {
      if (print) printManifest(version);
      else fetchVersion(version, /** @type {Source} */ (SOURCES.get(version)));
    }
  });
}

process.exitCode = main(process.argv.slice(2));
