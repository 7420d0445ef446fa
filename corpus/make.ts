/**
 * Makes the files of the corpus.
 *
 * @module
 */

import {
  createWriteStream,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { number, object, optional, parse, string } from "valibot";

import { buildBootSector } from "../guests/boot-sector.js";
import { findQemu, startQemu } from "../tests/support/qemu.js";
import type { QemuMachine } from "../tests/support/qemu.js";
import { CorpusIndex, type FileFacts, hashFile, takeFacts } from "./facts.js";
import type { Scenario } from "./scenarios.js";

const MIB = 1 << 20;
const DEFAULT_MEMORY_KIB = 16 * 1024;
const FIRMWARE_MS = 400;
const MIGRATION_TIMEOUT_MS = 60_000;
const ABOUT =
  "Migration files made by real QEMUs. Facts were taken from the stopped guest through its monitor, not by ramport.";

/** Pages that stay, pages that change all the time, and pages that are full and zero in turn. */
const WORKLOAD = {
  staticRange: { start: 2 * MIB, end: 8 * MIB },
  staticPagesPerPass: 256,
  dirtyRange: { start: 8 * MIB, end: 10 * MIB },
  togglingRange: { start: 10 * MIB, end: 11 * MIB },
};

/** What came of a scenario. */
export type Made =
  | { readonly facts: FileFacts }
  /** There is no such QEMU, or it refused what not every system allows. */
  | { readonly leftOut: string };

/** Makes one file, under the scenario's name in the folder. */
export async function makeFile(scenario: Scenario, folder: string): Promise<Made> {
  const qemu = findQemu(scenario.qemu);
  if (!qemu.found) return { leftOut: qemu.reason };
  const workDir = mkdtempSync(path.join(tmpdir(), "rp-corpus-"));
  let machine: QemuMachine | undefined;
  try {
    machine = await startScenario(scenario, workDir);
    return { facts: await save(machine, scenario, folder, workDir) };
  } catch (error) {
    if (scenario.needs === undefined || !(error instanceof Error)) throw error;
    return { leftOut: `needs ${scenario.needs}: ${error.message}` };
  } finally {
    await machine?.kill();
    rmSync(workDir, { recursive: true, force: true });
  }
}

/** Adds files to the folder's index; those that have the same name are replaced. */
export function writeIndex(
  folder: string,
  made: readonly { readonly scenario: Scenario; readonly outcome: Made }[],
): CorpusIndex {
  const file = path.join(folder, "index.json");
  const known = statSync(file, { throwIfNoEntry: false });
  const before = known === undefined ? undefined : parse(CorpusIndex, JSON.parse(readFileSync(file, "utf8")));
  const names = new Set(made.map(({ scenario }) => scenario.name));
  const files = (before?.files ?? []).filter(({ name }) => !names.has(name));
  const leftOut = (before?.leftOut ?? []).filter(({ name }) => !names.has(name));
  for (const { scenario, outcome } of made) {
    if ("facts" in outcome) files.push(outcome.facts);
    else leftOut.push({ name: scenario.name, reason: outcome.leftOut });
  }
  files.sort((a, b) => (a.name < b.name ? -1 : 1));
  const index = { about: ABOUT, files, leftOut };
  writeFileSync(file, `${JSON.stringify(index, undefined, 1)}\n`);
  return index;
}

async function startScenario(scenario: Scenario, workDir: string): Promise<QemuMachine> {
  const machine = await startQemu({
    version: scenario.qemu,
    machine: scenario.machine,
    memoryBytes: (scenario.memoryKiB ?? DEFAULT_MEMORY_KIB) * 1024,
    args: (scenario.args ?? []).map((arg) => arg.replaceAll("DIR", workDir)),
    workDir,
    ...(scenario.guest === "workload" ? { guestImage: buildBootSector(WORKLOAD) } : {}),
  });
  try {
    if (scenario.guest === "workload") await machine.waitForPass(3);
    else await sleep(FIRMWARE_MS);
    return machine;
  } catch (error) {
    await machine.kill();
    throw error;
  }
}

async function save(
  machine: QemuMachine,
  scenario: Scenario,
  folder: string,
  workDir: string,
): Promise<FileFacts> {
  const { name, offset = 0, liveRounds, capabilities = [], parameters } = scenario;
  mkdirSync(folder, { recursive: true });
  const file = path.join(path.resolve(folder), `${name}.mig`);
  rmSync(file, { force: true });
  if (liveRounds === undefined) await machine.qmp("stop");
  await machine.qmp("migrate-set-capabilities", {
    capabilities: capabilities.map((capability) => ({ capability, state: true })),
  });
  if (parameters !== undefined) await machine.qmp("migrate-set-parameters", parameters);
  const receiving = scenario.transport === "socket" ? await receiveInto(file, workDir) : undefined;
  await machine.qmp("migrate", { uri: receiving?.uri ?? fileUri(scenario.transport, file, offset) });
  await waitForEnd(machine, liveRounds);
  await receiving?.ended;
  return {
    name,
    file: path.basename(file),
    format: capabilities.includes("mapped-ram") ? "mapped-ram" : "stream",
    streamOffset: offset,
    live: liveRounds !== undefined,
    ...(await takeFacts(machine, scenario, workDir)),
    ...(await hashFile(file)),
  };
}

function fileUri(transport: Scenario["transport"], file: string, offset: number): string {
  if (transport === "exec") return `exec:cat > '${file.replaceAll("'", String.raw`'\''`)}'`;
  return `file:${file}${offset === 0 ? "" : `,offset=${offset}`}`;
}

const MigrationState = object({
  status: optional(string(), "none"),
  "error-desc": optional(string()),
  ram: optional(object({ "dirty-sync-count": number() })),
});

/** A live guest that never stops writing is stopped when its memory was gone over often enough. */
async function waitForEnd(machine: QemuMachine, liveRounds: number | undefined): Promise<void> {
  const limit = Date.now() + MIGRATION_TIMEOUT_MS;
  let stopped = liveRounds === undefined;
  for (;;) {
    const state = parse(MigrationState, await machine.qmp("query-migrate"));
    if (state.status === "completed") return;
    if (state.status === "failed" || Date.now() > limit) {
      throw new Error(`The migration is ${state.status}: ${state["error-desc"] ?? machine.stderr.trim()}`);
    }
    if (!stopped && (state.ram?.["dirty-sync-count"] ?? 0) > (liveRounds ?? 0)) {
      stopped = true;
      await machine.qmp("migrate-set-parameters", { "max-bandwidth": 1 << 30, "downtime-limit": 2000 });
    }
    await sleep(20);
  }
}

/**
 * Writes what comes to a file. The other end is told at once that all went well (a SHUT of the return path): it reads that
 * when it has sent everything.
 */
async function receiveInto(
  file: string,
  workDir: string,
): Promise<{ readonly uri: string; readonly ended: Promise<void> }> {
  const address = path.join(workDir, "in");
  const server = createServer({ allowHalfOpen: true });
  await new Promise<void>((resolve) => server.listen(address, resolve));
  const ended = new Promise<void>((resolve, reject) => {
    server.once("connection", (socket) => {
      server.close();
      socket.write(Uint8Array.of(0, 1, 0, 4, 0, 0, 0, 0));
      pipeline(socket, createWriteStream(file)).then(resolve, reject);
    });
  });
  // Whoever waits for it hears of a failure; nobody does when the migration itself failed before.
  ended.catch(() => undefined);
  return { uri: `unix:${address}`, ended };
}
