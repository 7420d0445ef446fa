import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { watchStandstill } from "../../../src/engine/multifd/standstill.js";
import { Collector } from "../../support/byte-channels.js";

const multifd = { channels: [new Collector(), new Collector()], syncMode: "round" } as const;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("once nothing has moved for long it says what may differ, once", () => {
  const said: string[] = [];
  watchStandstill(
    () => 7,
    multifd,
    (message) => said.push(message),
  );
  vi.advanceTimersByTime(14_000);
  expect(said).toEqual([]);
  vi.advanceTimersByTime(120_000);
  expect(said).toHaveLength(1);
  expect(said[0]).toMatch(/multifd-channels is not 2, .*multifd-compression is not none, .*once a round/);
});

test("what moves slowly is not called still, and nothing is said after the end", () => {
  const onMessage = vi.fn();
  let moved = 0;
  const slow = setInterval(() => (moved += 1), 14_000);
  const standstill = watchStandstill(() => moved, multifd, onMessage);
  vi.advanceTimersByTime(140_000);
  expect(onMessage).not.toHaveBeenCalled();
  clearInterval(slow);
  standstill.stop();
  vi.advanceTimersByTime(140_000);
  expect(onMessage).not.toHaveBeenCalled();
});
