import { describe, expect, test } from "vitest";

import { AutoConverge, type ThrottleParameters } from "../../../src/engine/outgoing/auto-converge.js";
import { DEFAULT_PARAMETERS } from "../../../src/qapi/index.js";
import { Random } from "../../support/random.js";
import { VirtualClock } from "../../simulation/virtual-clock.js";

/** Periods of a second, in each of which 1000 bytes are sent and so many are dirtied. */
function percentages(dirtied: readonly number[], parameters: Partial<ThrottleParameters> = {}): number[] {
  const clock = new VirtualClock(new Random(1));
  const autoConverge = new AutoConverge(clock, () => ({ ...DEFAULT_PARAMETERS, ...parameters }));
  return dirtied.map((bytes, index) => {
    clock.block(1000);
    const before = autoConverge.percentage;
    const changed = autoConverge.observe(bytes, (index + 1) * 1000);
    expect(changed).toBe(autoConverge.percentage !== before);
    return autoConverge.percentage;
  });
}

describe("AutoConverge", () => {
  test("slows down after every second period above the threshold", () => {
    expect(percentages([501, 501, 501, 501, 501, 501])).toEqual([0, 20, 20, 30, 30, 40]);
    expect(percentages([500, 500, 500, 500])).toEqual([0, 0, 0, 0]);
    expect(percentages([501, 0, 0, 501])).toEqual([0, 0, 0, 20]);
  });

  test("never more than max-cpu-throttle", () => {
    const most = percentages(Array.from({ length: 40 }, () => 5000));
    expect(most.at(-1)).toBe(99);
    expect(percentages([9000, 9000, 9000, 9000], { "max-cpu-throttle": 25 })).toEqual([0, 20, 20, 25]);
  });

  test("tailslow adds no more than it takes", () => {
    // 80 percent dirty 520 bytes: 77 of them would be at the threshold of 500.
    expect(percentages([520, 520, 520, 520], { "cpu-throttle-tailslow": true })).toEqual([0, 20, 20, 23]);
    expect(percentages([5000, 5000, 5000, 5000], { "cpu-throttle-tailslow": true })).toEqual([0, 20, 20, 30]);
  });

  test("gathers what is shorter than a period", () => {
    const clock = new VirtualClock(new Random(1));
    const autoConverge = new AutoConverge(clock, () => DEFAULT_PARAMETERS);
    for (let step = 1; step <= 19; step++) {
      clock.block(100);
      expect(autoConverge.observe(60, step * 100)).toBe(false);
    }
    clock.block(100);
    expect(autoConverge.observe(60, 2000)).toBe(true);
    expect(autoConverge.percentage).toBe(20);
  });
});
