import { describe, expect, test } from "vitest";

import { Bandwidth, type PaceParameters } from "../../../src/engine/outgoing/bandwidth.js";
import { Random } from "../../support/random.js";
import { VirtualClock } from "../../simulation/virtual-clock.js";

function make(parameters: Partial<PaceParameters> = {}): {
  clock: VirtualClock;
  pace: { -readonly [Name in keyof PaceParameters]: number };
  bandwidth: Bandwidth;
} {
  const clock = new VirtualClock(new Random(1));
  const pace = {
    "max-bandwidth": 0,
    "avail-switchover-bandwidth": 0,
    "downtime-limit": 300,
    ...parameters,
  };
  return { clock, pace, bandwidth: new Bandwidth(clock, () => pace) };
}

describe("the limit", () => {
  test("none: nothing waits, and slices are whole", () => {
    const { bandwidth } = make();
    expect(bandwidth.waitMs(1e12)).toBe(0);
    expect(bandwidth.sliceBytes).toBe(1 << 20);
  });

  test("what was sent is waited for, however much it was at once", () => {
    const { clock, bandwidth } = make({ "max-bandwidth": 1_000_000 });
    expect(bandwidth.waitMs(50_000)).toBe(50);
    expect(bandwidth.waitMs(3_000_000)).toBe(3000);
    clock.block(40);
    expect(bandwidth.waitMs(50_000)).toBe(10);
    expect(bandwidth.waitMs(40_000)).toBe(0);
  });

  test("a slice is what may go in a tenth of a second", () => {
    expect(make({ "max-bandwidth": 1_000_000 }).bandwidth.sliceBytes).toBe(100_000);
    expect(make({ "max-bandwidth": 2 ** 40 }).bandwidth.sliceBytes).toBe(1 << 20);
  });

  test("one that is changed holds from then on", () => {
    const { pace, bandwidth } = make({ "max-bandwidth": 1000 });
    expect(bandwidth.waitMs(100_000)).toBe(100_000);
    pace["max-bandwidth"] = 1_000_000;
    expect(bandwidth.waitMs(100_000)).toBe(0);
    expect(bandwidth.waitMs(150_000)).toBe(50);
    pace["max-bandwidth"] = 0;
    expect(bandwidth.waitMs(1e9)).toBe(0);
  });

  test("one that comes after a fast beginning does not hold everything back for that", () => {
    const { clock, pace, bandwidth } = make();
    clock.block(90);
    expect(bandwidth.waitMs(200 << 20)).toBe(0);
    pace["max-bandwidth"] = 1 << 20;
    expect(bandwidth.waitMs(200 << 20)).toBe(0);
    clock.block(1000);
    expect(bandwidth.waitMs((200 << 20) + (2 << 20))).toBe(1000);
  });

  test("nobody who was idle may catch up on more than a window", () => {
    const { clock, bandwidth } = make({ "max-bandwidth": 1_000_000 });
    clock.block(10_000);
    bandwidth.measure(0, 0);
    expect(bandwidth.waitMs(50_000)).toBe(50);
  });
});

describe("the measure", () => {
  test("is of windows of a tenth of a second", () => {
    const { clock, bandwidth } = make();
    clock.block(60);
    bandwidth.measure(600_000, 150);
    expect(bandwidth.bytesPerSecond).toBe(0);
    clock.block(40);
    bandwidth.measure(1_000_000, 250);
    expect(bandwidth.bytesPerSecond).toBe(10_000_000);
    expect(bandwidth.pagesPerSecond).toBe(2500);
    clock.block(200);
    bandwidth.measure(1_000_000, 250);
    expect(bandwidth.bytesPerSecond).toBe(0);
  });

  test("the first may be early, so that a small guest need not wait for it", () => {
    const { clock, bandwidth } = make();
    bandwidth.measure(1000, 1, true);
    expect(bandwidth.bytesPerSecond).toBe(0);
    clock.block(1);
    bandwidth.measure(1000, 1, true);
    expect(bandwidth.bytesPerSecond).toBe(1_000_000);
    clock.block(1);
    bandwidth.measure(1001, 1, true);
    expect(bandwidth.bytesPerSecond).toBe(1_000_000);
  });
});

describe("how long the rest takes", () => {
  test("nothing takes no time, something an unknown one before there is a measure", () => {
    const { bandwidth } = make();
    expect(bandwidth.expectedMs(0)).toBe(0);
    expect(bandwidth.expectedMs(1)).toBe(Number.POSITIVE_INFINITY);
  });

  test("by what was measured, or by avail-switchover-bandwidth", () => {
    const { clock, pace, bandwidth } = make();
    clock.block(100);
    bandwidth.measure(1_000_000, 250);
    expect(bandwidth.expectedMs(50_000)).toBe(5);
    pace["avail-switchover-bandwidth"] = 1_000_000;
    expect(bandwidth.expectedMs(50_000)).toBe(50);
  });
});
