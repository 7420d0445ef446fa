/**
 * The demo with a QEMU of this machine: the same guest, saved while it runs and restored into another QEMU.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import path from "node:path";

import { buildMultibootImage } from "../guests/multiboot.js";
import { CancelledError, MachineError } from "../src/errors/index.js";
import { QmpClient } from "../src/qmp/index.js";
import { restoreVm, saveVm } from "../src/session/index.js";
import type { FoundQemu, QemuMachine, StartQemuOptions } from "../tests/support/qemu.js";
import { findQemu, killAllQemus, startQemu } from "../tests/support/qemu.js";
import { comparison, duration, mebibytes, type Screen } from "./screen.js";

const MIB = 1 << 20;
const MEMORY_BYTES = 256 * MIB;
const REWRITTEN_BYTES = 72 * MIB;
/** The guest never comes to rest: it is stopped after so long. */
const LIVE_SECONDS = 3;
/** Bytes a second: slower than the guest rewrites its memory, as disks and networks are. */
const BANDWIDTH = 128 * MIB;
const PASSES = 3;
const SYSTEM_BINARY = "qemu-system-x86_64";
/** Newest one that most people have first. */
const PREFERRED = ["10.0", "11.1", "7.2"] as const;

const GUEST = buildMultibootImage({
  staticRange: { start: MIB, end: 49 * MIB },
  dirtyRange: { start: 64 * MIB, end: 128 * MIB },
  togglingRange: { start: 128 * MIB, end: 136 * MIB },
});

/** The QEMU that the demo would take: one that the project fetched or was pointed at, or the system's own. */
export function findDemoQemu(): FoundQemu | undefined {
  for (const version of PREFERRED) {
    const qemu = findQemu(version);
    if (qemu.found) return qemu;
  }
  if (spawnSync(SYSTEM_BINARY, ["--version"]).status !== 0) return undefined;
  // What the finder takes for every version.
  process.env.RAMPORT_QEMU = SYSTEM_BINARY;
  const qemu = findQemu(PREFERRED[0]);
  return qemu.found ? qemu : undefined;
}

/**
 * Runs it.
 *
 * @param file Path for the snapshot; its folder takes the machines' files.
 * @throws MachineError when there is no QEMU, or the guest finds anything wrong; CancelledError.
 */
export async function qemuDemo(screen: Screen, file: string, signal: AbortSignal): Promise<void> {
  const qemu = findDemoQemu();
  if (qemu === undefined) {
    const hint = "install one, or fetch one into .cache/ with: npm run fetch-qemu 10.0";
    throw new MachineError("not-capable", "There is no QEMU on this machine", { hint });
  }
  const kill = (): void => void killAllQemus();
  signal.addEventListener("abort", kill);
  try {
    const options = {
      version: qemu.version,
      memoryBytes: MEMORY_BYTES,
      guestImage: GUEST,
      workDir: path.dirname(file),
    };
    await saveAndRestore(screen, file, qemu, options, signal);
  } catch (error) {
    // Its QEMUs were ended under its feet.
    throw signal.aborted ? new CancelledError(undefined, error) : error;
  } finally {
    signal.removeEventListener("abort", kill);
    await killAllQemus();
  }
}

async function saveAndRestore(
  screen: Screen,
  file: string,
  qemu: FoundQemu,
  options: StartQemuOptions,
  signal: AbortSignal,
): Promise<void> {
  screen.line(`1 boot      a PC with ${MEMORY_BYTES / MIB} MiB starts in a QEMU ${qemu.realVersion}`);
  const first = await startQemu(options);
  await first.waitForMorePasses(PASSES);
  const before = lastPass(first);
  screen.line(
    `            guest ${before.id} rewrites ${REWRITTEN_BYTES / MIB} MiB over and over, checking all it finds`,
  );

  const saved = await withQmp(first, (qmp) =>
    saveVm(qmp, file, {
      live: true,
      stopAfterSeconds: LIVE_SECONDS,
      maxBandwidth: BANDWIDTH,
      signal,
      onProgress: ({ transferredBytes, dirtySyncCount = 0 }) =>
        screen.progress(`2 save      round ${dirtySyncCount}, ${mebibytes(transferredBytes)} so far`),
    }),
  );
  const after = lastPass(first);
  screen.line(`2 save      while it ran on, from pass ${before.pass} to pass ${after.pass},`);
  screen.line(`            in ${duration(saved.totalTimeMs ?? 0)} at ${BANDWIDTH / MIB} MiB/s`);
  screen.line();
  for (const line of comparison(await streamBytes(first), saved.fileBytes, saved.allocatedBytes))
    screen.line(line);
  screen.line();
  await first.kill();

  const second = await startQemu({ ...options, incoming: "defer" });
  const restored = await withQmp(second, (qmp) => restoreVm(qmp, file, { then: "run", signal }));
  screen.line(`3 restore   a fresh QEMU read the file in ${duration(restored.totalTimeMs)}`);
  await second.waitForMorePasses(PASSES);
  const next = second.passes().slice(0, 4);
  const [one] = next;
  // The line that was being printed while the guest was stopped is in no report.
  if (one?.id !== after.id || one.pass > after.pass + 2) {
    throw new MachineError("migration-failed", "The restored guest is not where it was");
  }
  screen.line(`4 go on     the first QEMU is gone; guest ${one.id} goes on in the second one:`);
  screen.line(`            ${next.map(({ pass }) => `pass ${pass} ok`).join(", ")}`);
}

function lastPass(machine: QemuMachine): { readonly id: string; readonly pass: number } {
  return machine.passes().at(-1) ?? { id: "?", pass: 0 };
}

async function withQmp<T>(machine: QemuMachine, use: (qmp: QmpClient) => Promise<T>): Promise<T> {
  const qmp = await QmpClient.connect({ path: machine.qmpPath });
  try {
    return await use(qmp);
  } finally {
    await qmp.close();
  }
}

/** What the pages would have taken as records of a stream: QEMU counts each time that it wrote one. */
async function streamBytes(machine: QemuMachine): Promise<number> {
  const info = (await machine.qmp("query-migrate")) as {
    readonly ram?: { readonly normal: number; readonly duplicate: number };
  };
  const { normal = 0, duplicate = 0 } = info.ram ?? {};
  return normal * (8 + 4096) + duplicate * (8 + 1);
}
