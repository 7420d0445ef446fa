import { setTimeout as sleep } from "node:timers/promises";

import { buildBootSector } from "../guests/boot-sector.js";
import { MachineError } from "../src/errors/index.js";
import { type QemuMachine, startQemu, type StartQemuOptions } from "../tests/support/qemu.js";
import { processCpuMs } from "./run-tool.js";

const MIB = 1 << 20;
const PAGE = 4096;
/** A PC has no RAM from here to 4 GiB; the guest's program reaches what is below. */
const HIGHEST_GUEST_ADDRESS = 3072 * MIB;

/** The QEMU that everything is compared with. */
export const QEMU_VERSION = "10.0";

/**
 * What the source and the destinations have in common. Memory is dense but for the last few MiB.
 *
 * @param denseBytes Only so much from its start is dense; the rest is zero.
 */
export function machineOptions(
  memoryBytes: number,
  workDir: string,
  denseBytes = memoryBytes,
): StartQemuOptions {
  const end = Math.min(memoryBytes, denseBytes, HIGHEST_GUEST_ADDRESS) - 16 * MIB;
  return {
    version: QEMU_VERSION,
    memoryBytes,
    workDir,
    guestImage: buildBootSector({
      staticRange: { start: 2 * MIB, end: end - PAGE },
      dirtyRange: { start: end - PAGE, end },
      staticPagesPerPass: 1,
      pauseLoops: 10_000_000,
    }),
  };
}

/** Starts the source, waits until its memory is filled, and stops it. */
export async function startSource(options: StartQemuOptions): Promise<QemuMachine> {
  const machine = await startQemu(options);
  await machine.waitForPass(1, 300_000);
  await machine.qmp("stop");
  await prepareSource(machine, {});
  return machine;
}

/** Capabilities that some row turns on; each row starts with all others off. */
const CAPABILITIES = ["mapped-ram", "multifd"] as const;

/** Capabilities to turn on. */
export type Capabilities = Partial<Record<(typeof CAPABILITIES)[number], true>>;

/** Sets what the next migration is done with: at full speed, with events. */
export async function configure(machine: QemuMachine, on: Capabilities): Promise<void> {
  await machine.qmp("migrate-set-capabilities", {
    capabilities: [
      { capability: "events", state: true },
      ...CAPABILITIES.map((capability) => ({ capability, state: on[capability] ?? false })),
    ],
  });
  await machine.qmp("migrate-set-parameters", { "max-bandwidth": 0, "multifd-channels": 2 });
}

/** Makes a guest that was migrated migratable again: it has to run for a moment. */
export async function prepareSource(machine: QemuMachine, on: Capabilities): Promise<void> {
  const { status } = (await machine.qmp("query-status")) as { status: string };
  if (status === "postmigrate") {
    await machine.qmp("cont");
    await machine.qmp("stop");
  }
  await configure(machine, on);
}

/**
 * Does something that makes QEMU migrate, and says how long QEMU took from the command to the end, by its own events'
 * times.
 */
export async function timeMigration<T>(
  machine: QemuMachine,
  start: () => Promise<T>,
): Promise<{ readonly ms: number; readonly value: T }> {
  const first = machine.events.length;
  const value = await start();
  for (;;) {
    const times = new Map(machine.events.slice(first).flatMap((event) => migrationStatus(event)));
    if (times.has("failed")) throw new MachineError("migration-failed", `Failed: ${machine.stderr}`);
    const completed = times.get("completed");
    if (completed !== undefined) return { ms: completed - (times.get("setup") ?? NaN), value };
    await sleep(2);
  }
}

function migrationStatus(event: Readonly<Record<string, unknown>>): [string, number][] {
  if (event.event !== "MIGRATION") return [];
  const { status } = event.data as { status: string };
  const { seconds, microseconds } = event.timestamp as { seconds: number; microseconds: number };
  return [[status, seconds * 1000 + microseconds / 1000]];
}

/** Processor time of a QEMU so far, with that of the children that it has waited for. */
export function cpuMs(machine: QemuMachine): number {
  return machine.pid === undefined ? NaN : processCpuMs(machine.pid);
}
