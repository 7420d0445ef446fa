import { afterEach, describe, expect, test } from "vitest";

import { Assembler } from "../../../guests/assembler.js";
import { buildMultibootImage, buildMultibootProgram, LOAD_ADDRESS } from "../../../guests/multiboot.js";
import { SerialReport } from "../../../guests/serial-report.js";
import type { V86HostOptions } from "../../../src/hosts/v86/index.js";
import { V86Host } from "../../../src/hosts/v86/index.js";

const MIB = 1 << 20;
const SLEEP_PASS = 3;
const sleeper = buildMultibootImage({
  staticRange: { start: 2 * MIB, end: 3 * MIB },
  dirtyRange: { start: 3 * MIB, end: 4 * MIB },
  sleepAfterPass: SLEEP_PASS,
});

const hosts: V86Host[] = [];

afterEach(async () => {
  for (const host of hosts.splice(0)) await host.destroy();
});

async function create(options: Partial<V86HostOptions> = {}): Promise<V86Host> {
  const host = await V86Host.create({
    memoryBytes: 8 * MIB,
    multiboot: sleeper,
    v86: { acpi: true },
    ...options,
  });
  hosts.push(host);
  return host;
}

/** A host whose guest has gone to sleep. */
async function asleep(options: Partial<V86HostOptions> = {}): Promise<V86Host> {
  const host = await create(options);
  const sleeps = new Promise<void>((resolve) => host.onSuspend(resolve));
  await host.run();
  await sleeps;
  return host;
}

/** A guest that writes this into PM1a_CNT, and then runs on. */
function writer(value: number): Uint8Array {
  const asm = new Assembler(LOAD_ADDRESS);
  return buildMultibootProgram(asm, () => {
    asm.mov("eax", value);
    asm.mov("edx", 0xb004);
    asm.outDxAx();
    asm.mov("edx", 0x3f8);
    asm.mov("eax", "A".charCodeAt(0));
    asm.outDxAl();
    asm.jmp(asm.here("end"));
  });
}

function spoken(host: V86Host): Promise<void> {
  return new Promise((resolve) => host.onSerial(() => resolve()));
}

async function passesReach(report: SerialReport, pass: number): Promise<void> {
  await expect.poll(() => report.passes.at(-1)?.pass ?? 0, { interval: 5 }).toBeGreaterThanOrEqual(pass);
}

/** Counts what the processor does while the machine goes on; held, it is looked after only once a second. */
async function instructionsIn(host: V86Host): Promise<number> {
  const before = host.emulator.get_instruction_counter();
  for (let turn = 0; turn < 50; turn++) {
    host.throttle(0);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return (host.emulator.get_instruction_counter() - before) >>> 0;
}

describe("a guest that goes to sleep (ACPI S3)", () => {
  test("stands still in a machine that runs, and is woken with its memory", async () => {
    const host = await create();
    const report = new SerialReport();
    host.onSerial((text) => report.push(text));
    expect(host.suspended).toBe(false);
    expect(() => host.wake()).toThrow(/does not sleep/);
    const sleeps = new Promise<void>((resolve) => host.onSuspend(resolve));
    await host.run();
    await sleeps;
    expect([host.running, host.suspended]).toEqual([true, true]);
    expect(await instructionsIn(host)).toBe(0);
    expect(report.passes.at(-1)?.pass).toBe(SLEEP_PASS);
    host.wake();
    expect([host.running, host.suspended]).toEqual([true, false]);
    await passesReach(report, SLEEP_PASS + 3);
    expect(() => host.wake()).toThrow(/does not sleep/);
  });

  test("sleeps on when its machine is stopped and let go on", async () => {
    const host = await asleep();
    await host.stop();
    expect([host.running, host.suspended]).toEqual([false, true]);
    await host.run();
    expect([host.running, host.suspended]).toEqual([true, true]);
    expect(await instructionsIn(host)).toBe(0);
  });

  test("sleeps on in another machine, and is woken there", async () => {
    const first = await asleep();
    await first.stop();
    const second = await create();
    const report = new SerialReport();
    second.onSerial((text) => report.push(text));
    for (const [index, { segments }] of first.ramBlocks().entries())
      second.ramBlocks()[index]?.segments[0]?.set(segments[0] ?? []);
    second.loadDevices(first.saveDevices());
    second.suspended = true;
    await second.run();
    expect(await instructionsIn(second)).toBe(0);
    expect(report.passes).toEqual([]);
    second.wake();
    await passesReach(report, SLEEP_PASS + 3);
    expect(report.startId).toBeUndefined();
  });

  test("one that has left no waking vector cannot be woken, and sleeps on", async () => {
    const host = await asleep();
    host.ramBlocks()[0]?.segments[0]?.fill(0, 0xe_010c, 0xe_0110);
    expect(() => host.wake()).toThrow(/no address at which it could be woken/);
    expect(host.suspended).toBe(true);
  });

  test.each([
    ["without SLP_EN", 1 << 10],
    ["another sleep type", 0x2000 | (2 << 10)],
  ])("%s does nothing", async (_, value) => {
    const host = await create({ multiboot: writer(value) });
    const speaks = spoken(host);
    await host.run();
    await speaks;
    expect(host.suspended).toBe(false);
  });

  test("the next instruction is not executed any more", async () => {
    const host = await create({ multiboot: writer(0x2000 | (1 << 10)) });
    let text = "";
    host.onSerial((one) => (text += one));
    const sleeps = new Promise<void>((resolve) => host.onSuspend(resolve));
    await host.run();
    await sleeps;
    expect(await instructionsIn(host)).toBe(0);
    expect(text).toBe("");
  });

  test("a machine without ACPI knows no sleep", async () => {
    const host = await create({ multiboot: writer(0x2000 | (1 << 10)), v86: {} });
    const speaks = spoken(host);
    await host.run();
    await speaks;
    expect(host.suspended).toBeUndefined();
    host.suspended = true;
    expect(host.suspended).toBeUndefined();
    expect(() => host.wake()).toThrow(/does not sleep/);
  });
});
