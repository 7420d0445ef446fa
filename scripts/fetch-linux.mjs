/**
 * Brings a small Linux for v86 into a cache folder, without root and without touching the system.
 *
 *     node scripts/fetch-linux.mjs            fetch it, or only make anew what comes of guests/linux
 *     node scripts/fetch-linux.mjs --print    print where the files are and how the kernel is started, as JSON
 *     node scripts/fetch-linux.mjs --help
 *
 * It is Debian's kernel for 32-bit PCs without PAE, SeaBIOS, and an initramfs of Debian's busybox and
 * guests/linux/init.sh. The folder is .cache/linux, or what RAMPORT_LINUX_CACHE names.
 *
 * @module
 */

import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

import { linuxCommandLine } from "../guests/linux/command-line.mjs";
import { buildInitramfs } from "../guests/linux/initramfs.mjs";
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

const SUITE = "bookworm";
/** v86 is a 32-bit PC. */
const ARCHITECTURE = "i386";
/** It depends on the newest kernel of its kind. */
const KERNEL_META_PACKAGE = "linux-image-686";
const MANIFEST = "linux.json";
const INITRAMFS = "initramfs.gz";
const BUSYBOX = "busybox";

/**
 * The files that are taken from packages, and their names in the cache.
 *
 * @type {Readonly<Record<string, { from: RegExp, package: "kernel" | "busybox-static" | "seabios" }>>}
 */
const FILES = {
  vmlinuz: { package: "kernel", from: /^boot\/vmlinuz-[^/]+$/ },
  [BUSYBOX]: { package: "busybox-static", from: /^(usr\/)?bin\/busybox$/ },
  "bios.bin": { package: "seabios", from: /^usr\/share\/seabios\/bios\.bin$/ },
  "vgabios.bin": { package: "seabios", from: /^usr\/share\/seabios\/vgabios-stdvga\.bin$/ },
};

const HELP = `usage: fetch-linux.mjs [--print | --help]

Brings Debian's ${ARCHITECTURE} kernel (${SUITE}), an initramfs and SeaBIOS for v86 into .cache/linux,
or into the folder that RAMPORT_LINUX_CACHE names: ${[...Object.keys(FILES), INITRAMFS].join(", ")}.

  --print   print the paths and the kernel's command line as JSON; fetches nothing
`;

/** @returns {string} */
function cacheFolder() {
  const repo = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
  return path.resolve(process.env["RAMPORT_LINUX_CACHE"] ?? path.join(repo, ".cache", "linux"));
}

/** @param {string} folder */
function isComplete(folder) {
  return [MANIFEST, ...Object.keys(FILES)].every((name) => fs.existsSync(path.join(folder, name)));
}

/**
 * Puts a file in its place at once: another process may be reading the old one.
 *
 * @param {string} file
 * @param {string | Uint8Array} content
 */
function writeInPlace(file, content) {
  const unfinished = `${file}.${process.pid}.unfinished`;
  fs.writeFileSync(unfinished, content);
  fs.renameSync(unfinished, file);
}

/**
 * Downloads the packages and unpacks each into a folder of its own.
 *
 * @param {string} work
 * @returns {Record<string, { folder: string, name: string, version: string }>} by the names in {@link FILES}
 */
function fetchPackages(work) {
  const config = writeAptConfig(work, { mirror: findMirror(), suites: [SUITE], architecture: ARCHITECTURE });
  say(`reading the package list of ${SUITE} for ${ARCHITECTURE}`);
  runApt(config, ["update", "-q", "--error-on=any"]);
  const kernel = /^linux-image-\S+/.exec(
    findPackageField(config, SUITE, KERNEL_META_PACKAGE, "Depends"),
  )?.[0];
  if (kernel === undefined) throw new FetchError(`${KERNEL_META_PACKAGE} of ${SUITE} names no kernel`);
  /** @type {ReturnType<typeof fetchPackages>} */
  const fetched = {};
  for (const kind of new Set(Object.values(FILES).map((file) => file.package))) {
    const name = kind === "kernel" ? kernel : kind;
    const version = findPackageField(config, SUITE, name, "Version");
    const folder = path.join(work, kind);
    fs.mkdirSync(folder);
    say(`downloading ${name} ${version}`);
    runApt(config, ["-q", "download", name], folder);
    const archive = fs.readdirSync(folder).find((entry) => entry.endsWith(".deb"));
    if (archive === undefined) throw new FetchError(`apt-get downloaded nothing for ${name}`);
    run("dpkg-deb", ["--extract", path.join(folder, archive), folder]);
    fetched[kind] = { folder, name, version };
  }
  return fetched;
}

/** @param {string} folder */
function fetchLinux(folder) {
  fs.mkdirSync(folder, { recursive: true });
  const work = fs.mkdtempSync(path.join(folder, ".unfinished-"));
  try {
    const packages = fetchPackages(work);
    for (const [name, { package: kind, from }] of Object.entries(FILES)) {
      const source = packages[kind];
      if (source === undefined) throw new FetchError(`no package ${kind} for ${name}`);
      const names = fs.readdirSync(source.folder, { recursive: true, encoding: "utf8" });
      const found = names.find((entry) => from.test(entry));
      if (found === undefined) throw new FetchError(`${source.name} ${source.version} holds no ${name}`);
      writeInPlace(path.join(folder, name), fs.readFileSync(path.join(source.folder, found)));
    }
    const versions = Object.values(packages).map(({ name, version }) => [name, version]);
    const manifest = { suite: SUITE, architecture: ARCHITECTURE, packages: Object.fromEntries(versions) };
    writeInPlace(path.join(folder, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
}

/**
 * The initramfs belongs to the checkout, not to Debian: it is made anew when guests/linux changed.
 *
 * @param {string} folder
 * @returns {boolean} whether it was another one
 */
function refreshInitramfs(folder) {
  const file = path.join(folder, INITRAMFS);
  const made = buildInitramfs(fs.readFileSync(path.join(folder, BUSYBOX)));
  if (fs.existsSync(file) && made.equals(fs.readFileSync(file))) return false;
  writeInPlace(file, made);
  return true;
}

/** @param {string} folder */
function print(folder) {
  if (!isComplete(folder) || !fs.existsSync(path.join(folder, INITRAMFS))) {
    throw new FetchError(`no Linux in ${folder}; run: node scripts/fetch-linux.mjs`);
  }
  /** @param {string} name */
  const full = (name) => path.join(folder, name);
  const manifest = /** @type {object} */ (JSON.parse(fs.readFileSync(full(MANIFEST), "utf8")));
  const files = {
    kernel: full("vmlinuz"),
    initrd: full(INITRAMFS),
    bios: full("bios.bin"),
    vgaBios: full("vgabios.bin"),
  };
  process.stdout.write(`${JSON.stringify({ ...manifest, ...files, append: linuxCommandLine() }, null, 2)}\n`);
}

/**
 * @param {string[]} args
 * @returns {number} exit status
 */
function main(args) {
  const [option] = args;
  if (option === "--help" || option === "-h") {
    process.stdout.write(HELP);
    return 0;
  }
  if (args.length > 1 || (option !== undefined && option !== "--print")) {
    process.stderr.write(HELP);
    return 2;
  }
  return exitStatusOf(() => {
    const folder = cacheFolder();
    if (option === "--print") {
      print(folder);
      return;
    }
    const there = isComplete(folder);
    const started = Date.now();
    if (!there) fetchLinux(folder);
    const changed = refreshInitramfs(folder);
    if (!there) say(`Linux is ready in ${folder} after ${((Date.now() - started) / 1000).toFixed(0)} s`);
    else say(changed ? "Linux is there already; its initramfs is made anew" : "Linux is there already");
  });
}

process.exitCode = main(process.argv.slice(2));
