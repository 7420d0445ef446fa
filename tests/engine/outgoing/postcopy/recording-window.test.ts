import { expect, test } from "vitest";

import { RecordingWindow } from "../../../../src/engine/outgoing/postcopy/recording-window.js";

let nowMs = 0;
const clock = { now: () => nowMs, sleep: () => Promise.resolve(), turn: () => Promise.resolve() };

function opened(): RecordingWindow {
  nowMs = 5000;
  const window = new RecordingWindow(clock, { quietMs: 100, mostMs: 1000 });
  nowMs += 10_000;
  expect(window.isOpen).toBe(true);
  window.begin();
  return window;
}

test("it ends when nothing was asked for, and does not begin again", () => {
  const window = opened();
  nowMs += 99;
  expect(window.isOpen).toBe(true);
  window.asked();
  nowMs += 99;
  expect(window.isOpen).toBe(true);
  nowMs += 1;
  expect(window.isOpen).toBe(false);
  window.asked();
  window.begin();
  expect(window.isOpen).toBe(false);
});

test("it ends at the latest when it has lasted long enough", () => {
  const window = opened();
  for (let step = 0; step < 20; step++) {
    nowMs += 49;
    window.begin();
    window.asked();
    expect(window.isOpen).toBe(true);
  }
  nowMs += 49;
  window.asked();
  expect(window.isOpen).toBe(false);
});

test("it can be closed, and is never open without limits", () => {
  const window = opened();
  window.close();
  expect(window.isOpen).toBe(false);
  expect(new RecordingWindow(clock, undefined).isOpen).toBe(false);
});
