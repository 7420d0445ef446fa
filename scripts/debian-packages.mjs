/**
 * Downloads packages from the Debian mirror that this machine's own apt is set up with, without root and without
 * touching the system: apt runs with a private configuration, with lists, cache and package status of its own.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";

const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** A problem to show in one line. */
export class FetchError extends Error {}

/**
 * Does what a script is for; what goes wrong is said in one line.
 *
 * @param {() => void} work
 * @returns {number} exit status
 */
export function exitStatusOf(work) {
  try {
    work();
    return 0;
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    // What is no FetchError is a failed system call (a full disk, no rights): its message says so.
    say(error.message);
    return 3;
  }
}

/**
 * Tells the user what happens; the running script's name stands in front.
 *
 * @param {string} line
 */
export function say(line) {
  process.stderr.write(`${path.basename(process.argv[1] ?? "", ".mjs")}: ${line}\n`);
}

/**
 * @param {string} command
 * @param {string[]} args
 * @param {NodeJS.ProcessEnv} [env]
 * @param {string} [cwd]
 * @returns {{ ok: boolean, stdout: string, reason: string }}
 */
export function tryRun(command, args, env, cwd) {
  const result = spawnSync(command, args, {
    encoding: "utf8",
    maxBuffer: 64 << 20,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive", ...env },
    ...(cwd === undefined ? {} : { cwd }),
  });
  if (result.error !== undefined)
    return { ok: false, stdout: "", reason: `${command}: ${result.error.message}` };
  const lines = result.stderr.split("\n").filter((line) => line.trim() !== "");
  const reason =
    lines.find((line) => line.startsWith("E:")) ?? lines.at(-1) ?? `exit status ${String(result.status)}`;
  return { ok: result.status === 0, stdout: result.stdout, reason: `${command}: ${reason}` };
}

/**
 * @param {string} command
 * @param {string[]} args
 * @param {NodeJS.ProcessEnv} [env]
 * @param {string} [cwd]
 * @returns {string} stdout
 */
export function run(command, args, env, cwd) {
  const result = tryRun(command, args, env, cwd);
  if (!result.ok) throw new FetchError(result.reason);
  return result.stdout;
}

/**
 * The network may fail once.
 *
 * @param {string} config
 * @param {string[]} args
 * @param {string} [cwd]
 */
export function runApt(config, args, cwd) {
  const first = tryRun("apt-get", ["-c", config, ...args], {}, cwd);
  if (first.ok) return;
  say(`apt-get failed, once more (${first.reason})`);
  run("apt-get", ["-c", config, ...args], {}, cwd);
}

/**
 * The mirror with this machine's main Debian suite: the other suites are next to it.
 *
 * @returns {string}
 */
export function findMirror() {
  const release = fs.readFileSync("/etc/os-release", "utf8");
  const codename = /^VERSION_CODENAME="?([a-z]+)"?$/m.exec(release)?.[1];
  const id = /^ID="?([a-z]+)"?$/m.exec(release)?.[1];
  if (id !== "debian" || codename === undefined)
    throw new FetchError("this machine is not a Debian: no mirror to ask");
  const format = "$(REPO_URI) $(RELEASE)";
  const targets = run("apt-get", ["indextargets", "--format", format, "Created-By: Packages"]);
  for (const line of targets.split("\n")) {
    const [uri, suite] = line.trim().split(" ");
    if (uri !== undefined && (suite === codename || suite === "stable")) return uri;
  }
  throw new FetchError(`apt of this machine has no mirror with the suite ${codename}`);
}

/**
 * Private configuration: given by `-c`, it is read after the system's files, whose proxy settings stay in force.
 *
 * @param {string} work folder for it and all that apt keeps
 * @param {object} sources
 * @param {string} sources.mirror
 * @param {string[]} sources.suites
 * @param {"deb" | "deb-src"} [sources.kind] default `deb`
 * @param {string} [sources.architecture] Debian's name of it; default is the machine's own
 * @returns {string} path of the configuration
 */
export function writeAptConfig(work, { mirror, suites, kind = "deb", architecture }) {
  for (const folder of ["state/lists/partial", "cache/archives/partial", "log"]) {
    fs.mkdirSync(path.join(work, folder), { recursive: true });
  }
  if (!fs.existsSync(KEYRING)) throw new FetchError(`no ${KEYRING}: nothing to verify the packages with`);
  const lists = suites.map((suite) => `${kind} [signed-by=${KEYRING}] ${mirror} ${suite} main\n`);
  fs.writeFileSync(path.join(work, "sources.list"), lists.join(""));
  fs.writeFileSync(path.join(work, "status"), "");
  const config = path.join(work, "apt.conf");
  /** @param {string} name */
  const inWork = (name) => JSON.stringify(path.join(work, name));
  const lines = [
    `Dir::Etc::sourcelist ${inWork("sources.list")};`,
    `Dir::Etc::sourceparts "/dev/null";`,
    `Dir::Etc::preferences "/dev/null";`,
    `Dir::Etc::preferencesparts "/dev/null";`,
    `Dir::State ${inWork("state")};`,
    `Dir::State::status ${inWork("status")};`,
    `Dir::Cache ${inWork("cache")};`,
    `Dir::Log ${inWork("log")};`,
    // apt would become the user _apt, who may not enter a folder of this user.
    `APT::Sandbox::User ${JSON.stringify(os.userInfo().username)};`,
    `APT::Install-Recommends "false";`,
    `APT::Install-Suggests "false";`,
    `Acquire::Languages "none";`,
    `Acquire::Retries "2";`,
    // Hooks of the system (containers have some that clean the system's own cache) are not for this run.
    `#clear APT::Update::Pre-Invoke;`,
    `#clear APT::Update::Post-Invoke;`,
    `#clear APT::Update::Post-Invoke-Success;`,
    `#clear DPkg::Pre-Install-Pkgs;`,
    `#clear DPkg::Pre-Invoke;`,
    `#clear DPkg::Post-Invoke;`,
  ];
  if (architecture !== undefined) {
    const name = JSON.stringify(architecture);
    lines.push(
      `#clear APT::Architectures;`,
      `APT::Architecture ${name};`,
      `APT::Architectures { ${name}; };`,
    );
  }
  fs.writeFileSync(config, `${lines.join("\n")}\n`);
  return config;
}

/**
 * @param {string} config
 * @param {string} suite
 * @param {string} name
 * @param {string} field
 * @returns {string} what the suite's list says of the package
 */
export function findPackageField(config, suite, name, field) {
  const shown = run("apt-cache", ["-c", config, "show", "--no-all-versions", "-t", suite, name]);
  const found = new RegExp(`^${field}: (.+)$`, "m").exec(shown)?.[1];
  if (found === undefined) throw new FetchError(`${suite} has no ${name}`);
  return found;
}
