import { expect, test } from "vitest";

import { HeadStart } from "../../../../src/engine/outgoing/postcopy/head-start.js";

let nowMs = 0;
const clock = { now: () => nowMs, sleep: () => Promise.resolve(), turn: () => Promise.resolve() };

function begun(): HeadStart {
  nowMs = 5000;
  const start = new HeadStart(clock, 200);
  nowMs += 10_000;
  expect(start.leftMs).toBe(200);
  start.begin();
  return start;
}

test("it lasts for its time from when the guest runs, and does not begin again", () => {
  const start = begun();
  nowMs += 150;
  start.begin();
  expect(start.leftMs).toBe(50);
  nowMs += 60;
  expect(start.leftMs).toBe(0);
  nowMs -= 100;
  expect(start.leftMs).toBe(0);
});

test("it is over when the guest asks for something", () => {
  const start = begun();
  start.asked();
  expect(start.leftMs).toBe(0);
});

test("there may be none", () => {
  expect(new HeadStart(clock, 0).leftMs).toBe(0);
});
