/**
 * The guest that uses all of its memory (guests/memory-load.ts), its snapshot, and what has to hold once it is restored.
 *
 * @module
 */

import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";

import { buildMemoryLoad } from "../../guests/memory-load.js";
import { parseVerifications } from "../../guests/memory-load-report.js";
import { parseSerialReport } from "../../guests/serial-report.js";
import { migrationEnd, setCapabilities } from "./migrating-guest.js";
import { type QemuMachine, startQemu, type StartQemuOptions } from "./qemu.js";

const PAGE = 4096;
/** The guest checks all pages but those of the first MiB, where its program is. */
const UNCHECKED_PAGES = 256;
const PASSES_PER_SWEEP = 64;
const VERIFY_LIMIT_MS = 60_000;

/** A snapshot that was taken while the guest was somewhere in a sweep over all of its memory. */
export interface MemorySnapshot {
  readonly path: string;
  readonly memoryBytes: number;
  /** What the guest had said until then. */
  readonly serialText: string;
  /** To start a destination with; every version of QEMU knows the machine. */
  readonly machine: Omit<StartQemuOptions, "version">;
}

/** Saves it by QEMU alone. */
export async function saveMemoryGuest(
  path: string,
  workDir: string,
  memoryBytes: number,
): Promise<MemorySnapshot> {
  const machine: MemorySnapshot["machine"] = {
    machine: "pc-i440fx-7.2",
    memoryBytes,
    workDir,
    guestImage: buildMemoryLoad({ memoryBytes, passesPerSweep: PASSES_PER_SWEEP }),
  };
  const source = await startQemu({ ...machine, version: "10.0" });
  try {
    // In its second sweep pages of two generations are there.
    await source.waitForPass(PASSES_PER_SWEEP + PASSES_PER_SWEEP / 3);
    await source.qmp("stop");
    await setCapabilities(source, "mapped-ram");
    await source.qmp("migrate-set-parameters", { "max-bandwidth": 0 });
    await source.qmp("migrate", { uri: `file:${path}` });
    expect(await migrationEnd(source)).toBe("completed");
    source.passes();
    return { path, memoryBytes, serialText: source.serial.text, machine };
  } finally {
    await source.kill();
  }
}

/** The guest of the snapshot runs here: it has lost no pass, and it finds every page of its memory right, twice. */
export async function expectMemoryIntact(destination: QemuMachine, snapshot: MemorySnapshot): Promise<void> {
  await destination.waitForMorePasses(PASSES_PER_SWEEP + 1);
  const before = parseVerifications(destination.serial.text).length;
  await destination.qmp("send-key", { keys: [{ type: "qcode", data: "v" }], "hold-time": 1 });
  const limit = Date.now() + VERIFY_LIMIT_MS;
  while (parseVerifications(destination.serial.text).length === before) {
    destination.passes();
    expect(Date.now(), "the guest checks all of its memory").toBeLessThan(limit);
    await sleep(10);
  }
  const pages = snapshot.memoryBytes / PAGE - UNCHECKED_PAGES;
  expect(parseVerifications(destination.serial.text).at(-1)?.pages).toBe(pages);
  expect(destination.serial.startId).toBeUndefined();
  // It goes on meanwhile: what is read later has as many passes or more.
  const passes = destination.passes().at(-1)?.pass;
  const whole = parseSerialReport(snapshot.serialText + destination.serial.text);
  expect(whole.at(-1)?.pass).toBeGreaterThanOrEqual(passes ?? Infinity);
}
