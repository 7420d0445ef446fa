/** What waits in postcopy waits by the clock that it was given. */

import { expect, test } from "vitest";

import { Alarm } from "../../../../src/engine/outgoing/postcopy/alarm.js";
import { PostcopyConnection } from "../../../../src/engine/outgoing/postcopy/connection.js";
import { VirtualClock } from "../../../simulation/virtual-clock.js";
import { bytePipe } from "../../../support/byte-pipe.js";
import { Random } from "../../../support/random.js";

const LIMITS = { untilMs: 1e9, events: 1000 };

test("an alarm wakes when it rings, or when its time has come", async () => {
  const clock = new VirtualClock(new Random(1));
  const alarm = new Alarm(clock);
  expect(await clock.run(alarm.wait(60_000), LIMITS)).toBe(false);
  expect(clock.now()).toBe(60_000);
  clock.after(5, "ring", () => alarm.ring());
  expect(await clock.run(alarm.wait(60_000), LIMITS)).toBe(true);
  expect(clock.now()).toBe(60_005);
  alarm.ring();
  expect(await clock.run(alarm.wait(), LIMITS)).toBe(true);
  expect(clock.now()).toBe(60_005);
});

test("a destination that says nothing is given a second to take the main channel", async () => {
  const clock = new VirtualClock(new Random(1));
  const { near } = bytePipe(() => Infinity);
  const pages = { targetPageSize: 4096, blocks: [] };
  const connection = new PostcopyConnection({ main: near, returnPath: near }, pages, () => undefined, clock);
  const second = bytePipe(() => Infinity).near;
  const never = new Promise<void>(() => undefined);
  await clock.run(connection.openPreempt({ connect: () => Promise.resolve(second) }, never), LIMITS);
  expect(clock.now()).toBe(1000);
  expect(connection.preempt).toBe(second);
  expect(connection.isEarlyPreempt).toBeUndefined();
  connection.close();
});
