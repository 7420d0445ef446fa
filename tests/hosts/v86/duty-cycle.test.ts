import { afterEach, describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../../guests/multiboot.js";
import { SerialReport } from "../../../guests/serial-report.js";
import { V86Host } from "../../../src/hosts/v86/index.js";

const MIB = 1 << 20;
const multiboot = buildMultibootImage({ dirtyRange: { start: 4 * MIB, end: 5 * MIB } });

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
    await speed(host, 300);
    const full = await speed(host, 400);
    host.throttle(50);
    const half = await speed(host, 600);
    host.throttle(90);
    const tenth = await speed(host, 800);
    expect(host.running).toBe(true);
    expect(host.runCount).toBe(1);
    host.throttle(0);
    const again = await speed(host, 400);
    // Wide limits: other processes take their part of the machine as well.
    expect(half / full).toBeLessThan(0.75);
    expect(tenth / full).toBeLessThan(0.3);
    expect(tenth).toBeGreaterThan(0);
    expect(again).toBeGreaterThan(2 * tenth);
    expect(report.passes.length).toBeGreaterThan(0);
  });

  test("is stopped and let go on at once", async () => {
    const { host } = await running();
    await speed(host, 50);
    host.throttle(99);
    for (let round = 0; round < 5; round++) {
      await speed(host, 20);
      const startMs = performance.now();
      await host.stop();
      // Its rest would last some 100 ms.
      expect(performance.now() - startMs).toBeLessThan(60);
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
  expect(await speed(host, 30)).toBeGreaterThan(0);
  expect(host.runCount).toBe(2);
  await Promise.all([host.run(), host.stop()]);
  expect(host.running).toBe(false);
});
