/**
 * The guest of the save and restore tests, and what has to hold for it afterwards.
 *
 * @module
 */

import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";

import { buildBootSector } from "../../guests/boot-sector.js";
import { parseSerialReport } from "../../guests/serial-report.js";
import type { PassReport } from "../../guests/serial-report.js";
import type { WorkloadOptions } from "../../guests/workload.js";
import type { CliRun } from "./ramport-cli.js";
import type { QemuMachine, StartQemuOptions } from "./qemu.js";

const MIB = 1 << 20;

/** 8706 pages: no multiple of 64. */
export const GUEST_MEMORY_BYTES = 34_824 * 1024;

/** Pages that stay, pages that change, and pages that are full and zero in turn. */
export const WORKLOAD: WorkloadOptions = {
  staticRange: { start: 2 * MIB, end: 14 * MIB },
  staticPagesPerPass: 512,
  dirtyRange: { start: 14 * MIB, end: 17 * MIB },
  togglingRange: { start: 17 * MIB, end: 20 * MIB },
};

/** The last pass before the guest sleeps. */
export const SLEEP_PASS = 3;

/** One that goes to sleep, and goes on where it was when it is woken. The firmware uses the upper half of memory then. */
export const SLEEPING_WORKLOAD: WorkloadOptions = {
  staticRange: { start: 2 * MIB, end: 8 * MIB },
  staticPagesPerPass: 512,
  dirtyRange: { start: 8 * MIB, end: 11 * MIB },
  togglingRange: { start: 11 * MIB, end: 14 * MIB },
  sleepAfterPass: SLEEP_PASS,
};

/** The machine: several RAM blocks, a display card, a network card with a ROM. */
export function guestMachine(
  workDir: string,
  options: Pick<StartQemuOptions, "version"> & Partial<StartQemuOptions>,
): StartQemuOptions {
  return {
    memoryBytes: GUEST_MEMORY_BYTES,
    guestImage: buildBootSector(WORKLOAD),
    args: ["-device", "VGA", "-device", "e1000"],
    workDir,
    ...options,
  };
}

/** What a guest had said when it was stopped for good. */
export interface GuestState {
  readonly last: PassReport;
  readonly serialText: string;
}

/** What a machine has to have for the checks: QEMUs and `ramport vm`. */
export type GuestMachine = Pick<
  QemuMachine,
  "passes" | "qmp" | "serial" | "waitForMorePasses" | "waitForPass"
>;

/** Reads what a guest said so far. */
export function guestState(machine: GuestMachine): GuestState {
  const last = machine.passes().at(-1);
  expect(last).toBeDefined();
  return { last: last!, serialText: machine.serial.text };
}

/** The same guest runs here: it checks its memory for some passes and finds it right, and it has lost no pass. */
export async function expectGoesOn(destination: GuestMachine, before: GuestState, passes = 4): Promise<void> {
  const report = await destination.waitForPass(before.last.pass + passes);
  expect(report.id).toBe(before.last.id);
  expect(destination.serial.startId).toBeUndefined();
  const whole = parseSerialReport(before.serialText + destination.serial.text);
  expect(whole.at(-1)?.id).toBe(before.last.id);
}

/** The guest that was to be saved runs on where it is. */
export async function expectRunsOn(machine: GuestMachine, passes = 3): Promise<void> {
  expect(await statusOf(machine)).toBe("running");
  await machine.waitForMorePasses(passes);
}

/** Nothing of the guest runs. */
export async function expectStandsStill(machine: GuestMachine, status: string): Promise<void> {
  expect(await statusOf(machine)).toBe(status);
  const before = machine.serial.text;
  await sleep(400);
  expect(machine.serial.text).toBe(before);
}

/** The run state's name. */
export async function statusOf(machine: GuestMachine): Promise<string> {
  return ((await machine.qmp("query-status")) as { status: string }).status;
}

/** The migration's state, and how much it has moved. */
export async function migrationOf(
  machine: GuestMachine,
): Promise<{ readonly status: string; readonly transferred: number; readonly passes: number }> {
  const answer = (await machine.qmp("query-migrate")) as {
    status?: string;
    ram?: { transferred: number; "dirty-sync-count": number };
  };
  return {
    status: answer.status ?? "none",
    transferred: answer.ram?.transferred ?? 0,
    passes: answer.ram?.["dirty-sync-count"] ?? 0,
  };
}

/** Waits until a migration has moved that much, and is not at its end. */
export async function waitForTransfer(machine: GuestMachine, bytes: number, run?: CliRun): Promise<void> {
  for (;;) {
    const { status, transferred } = await migrationOf(machine);
    expect(["none", "setup", "active"], run?.stderr).toContain(status);
    if (transferred >= bytes) return;
    expect(run?.result).toBeUndefined();
    await sleep(10);
  }
}

/** Polls until a migration has come to its end, and says how. */
export async function migrationEnd(machine: GuestMachine): Promise<string> {
  for (;;) {
    const { status } = await migrationOf(machine);
    if (["completed", "failed", "cancelled"].includes(status)) return status;
    await sleep(20);
  }
}

/** Capabilities and parameters, to compare before and after. */
export async function migrationSettings(machine: GuestMachine): Promise<unknown> {
  return [await machine.qmp("query-migrate-capabilities"), await machine.qmp("query-migrate-parameters")];
}

/** Turns capabilities on. */
export async function setCapabilities(
  machine: Pick<GuestMachine, "qmp">,
  ...names: readonly string[]
): Promise<void> {
  await machine.qmp("migrate-set-capabilities", {
    capabilities: names.map((capability) => ({ capability, state: true })),
  });
}

/** Loads a mapped-ram file as QEMU does it alone, without ramport. */
export async function loadWithQemuAlone(machine: GuestMachine, path: string): Promise<void> {
  await setCapabilities(machine, "mapped-ram");
  await machine.qmp("migrate-incoming", { uri: `file:${path}` });
}

/** Saves into a mapped-ram file as QEMU does it alone, without ramport. */
export async function saveWithQemuAlone(machine: GuestMachine, path: string): Promise<void> {
  await setCapabilities(machine, "mapped-ram");
  await machine.qmp("migrate", { uri: `file:${path}` });
}
