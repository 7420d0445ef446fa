import { describe, expect, test } from "vitest";

import { systemClock } from "../../../../src/engine/clock.js";
import { FillRate } from "../../../../src/engine/outgoing/postcopy/background-fill.js";

describe("the rate of the background fill", () => {
  const start = (limit: number): { rate: FillRate; at: { ms: number; limit: number } } => {
    const at = { ms: 5000, limit };
    const clock = { ...systemClock, now: () => at.ms };
    return { rate: new FillRate(clock, () => at.limit), at };
  };

  test("is held over time, and what was not used is lost", () => {
    const { rate, at } = start(1000);
    expect(rate.waitMs()).toBe(0);
    rate.sent(500);
    expect(rate.waitMs()).toBe(500);
    at.ms += 200;
    rate.sent(100);
    expect(rate.waitMs()).toBe(400);
    at.ms += 10_000;
    rate.sent(1000);
    expect(rate.waitMs()).toBe(1000);
  });

  test("holds from the moment on when it changes", () => {
    const { rate, at } = start(1);
    rate.sent(100_000);
    expect(rate.waitMs()).toBe(1e8);
    at.limit = 1_000_000;
    expect(rate.waitMs()).toBe(100);
    at.limit = 0;
    expect(rate.waitMs()).toBe(0);
    at.limit = 10;
    expect(rate.waitMs()).toBe(0);
  });
});
