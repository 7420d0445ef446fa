import { afterEach, describe, expect, test, vi } from "vitest";

import { buildMultibootImage } from "../../../guests/multiboot.js";
import { SerialReport } from "../../../guests/serial-report.js";
import { DutyCycle } from "../../../src/hosts/v86/duty-cycle.js";
import { V86Host } from "../../../src/hosts/v86/index.js";
import { internalsOf, type V86Machine } from "../../../src/hosts/v86/internals.js";

const MIB = 1 << 20;
const multiboot = buildMultibootImage({ dirtyRange: { start: 4 * MIB, end: 5 * MIB } });

/** A turn of the guest that takes long: at 99 % its rest is a hundred times as long. */
const TURN_MS = 50;

const hosts: V86Host[] = [];

afterEach(async () => {
  for (const host of hosts.splice(0)) await host.destroy();
});

async function running(): Promise<{ readonly host: V86Host; readonly report: SerialReport }> {
  const host = await V86Host.create({ memoryBytes: 16 * MIB, multiboot });
  hosts.push(host);
  const report = new SerialReport();
  host.onSerial((text) => report.push(text));
  await host.run();
  return { host, report };
}

/** How much the guest does in some time: v86 counts its instructions. */
async function speed(host: V86Host, milliseconds: number): Promise<number> {
  const before = host.emulator.get_instruction_counter();
  const startMs = performance.now();
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  const count = (host.emulator.get_instruction_counter() - before) >>> 0;
  return count / (performance.now() - startMs);
}

describe("a throttled guest", () => {
  test("gets its part of the time, runs all the while, and is as fast as before afterwards", async () => {
    const { host, report } = await running();
    host.throttle(50);
    await expect.poll(() => report.passes.length).toBeGreaterThan(0);
    host.throttle(99);
    const little = await speed(host, 800);
    expect(host.running).toBe(true);
    expect(host.runCount).toBe(1);
    host.throttle(0);
    const again = await speed(host, 400);
    // A hundred times as much; the limit is wide, because other processes take their part of the machine as well. What
    // the guest did before is no measure: the emulator was not warm.
    expect(little).toBeGreaterThan(0);
    expect(again).toBeGreaterThan(3 * little);
    expect(report.passes.length).toBeGreaterThan(0);
  });

  test("is stopped and let go on at once", async () => {
    const { host } = await running();
    await speed(host, 50);
    const { cpu } = internalsOf(host.emulator);
    const runTurn = cpu.main_loop.bind(cpu);
    cpu.main_loop = () => {
      for (const end = performance.now() + TURN_MS; performance.now() < end;);
      return runTurn();
    };
    host.throttle(99);
    for (let round = 0; round < 5; round++) {
      await speed(host, 3 * TURN_MS);
      const startMs = performance.now();
      await host.stop();
      expect(performance.now() - startMs).toBeLessThan((TURN_MS * 99) / 2);
      expect(host.running).toBe(false);
      expect(await speed(host, 20)).toBe(0);
      await host.run();
      expect(host.running).toBe(true);
    }
    expect(host.runCount).toBe(6);
    host.throttle(0);
    await host.stop();
    host.throttle(50);
    host.throttle(0);
    expect(host.running).toBe(false);
    expect(await speed(host, 20)).toBe(0);
  });
});

test("stop and run in any order end in what was asked for last", async () => {
  const { host } = await running();
  const stops = [host.stop(), host.stop()];
  const runs = [host.run()];
  await Promise.all([...stops, ...runs]);
  expect(host.running).toBe(true);
  await expect.poll(() => speed(host, 30)).toBeGreaterThan(0);
  expect(host.runCount).toBe(2);
  await Promise.all([host.run(), host.stop()]);
  expect(host.running).toBe(false);
});

describe("the rest behind a turn", () => {
  afterEach(() => void vi.restoreAllMocks());

  test("is in the wanted proportion to it, and no part of it is left after waking", () => {
    let nowMs = 1000;
    vi.spyOn(performance, "now").mockImplementation(() => nowMs);
    const delays: number[] = [];
    const yieldTo = (delayMs: number): void => void delays.push(delayMs);
    const cpu = {
      main_loop: (): number => {
        nowMs += 2;
        return 0;
      },
    };
    // The prototype has the emulator's own function, as in v86.
    const machine = Object.create({ yield: yieldTo }, { cpu: { value: cpu } }) as V86Machine;
    machine.next_tick = (delayMs) => machine.yield(delayMs, 0);
    const turn = (idleMs = 0): void => {
      machine.cpu.main_loop();
      machine.yield(idleMs, 0);
    };
    const duty = new DutyCycle(machine);
    turn();
    duty.set(50);
    turn();
    duty.set(90);
    turn();
    turn(500);
    duty.wake();
    duty.set(0);
    turn();
    expect(delays.map((delay) => Math.round(delay))).toEqual([0, 2, 18, 500, 0, 0]);
    expect(Object.hasOwn(machine, "yield")).toBe(false);
  });
});
