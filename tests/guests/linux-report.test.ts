import { describe, expect, test } from "vitest";

import { LinuxReport } from "../../guests/linux-report.js";

const READY = "guest=0123abcd ready kept=16 rewritten=4 linux=6.1.0-50-686\r\n";

function pass(number: number, uptime: number, id = "0123abcd"): string {
  return `guest=${id} pass=${number} ok uptime=${uptime.toFixed(2)}\r\n`;
}

test("reports come out whole, wherever the output is cut", () => {
  const text = `[    0.1] BIOS bug, MP table errors detected!\r\n${READY}${pass(1, 9.65)}${pass(2, 10)}guest=01`;
  const report = new LinuxReport();
  const complete = Array.from({ length: text.length }, (_, at) => report.push(text.slice(at, at + 1))).flat();
  expect(complete).toEqual([
    { id: "0123abcd", pass: 1, uptimeSeconds: 9.65 },
    { id: "0123abcd", pass: 2, uptimeSeconds: 10 },
  ]);
  expect(report.passes).toEqual(complete);
  expect([report.startId, report.release]).toEqual(["0123abcd", "6.1.0-50-686"]);
  expect(report.unfinishedLine).toBe("guest=01");
});

test("a restored guest's output may begin within a line", () => {
  const report = new LinuxReport();
  expect(report.push(`pass=7 ok uptime=3.00\r\n${pass(8, 3.5)}`)).toEqual([
    { id: "0123abcd", pass: 8, uptimeSeconds: 3.5 },
  ]);
  expect(report.startId).toBeUndefined();
});

describe("what goes wrong in the guest is an error", () => {
  test.each([
    [
      "wrong memory",
      `${pass(1, 1)}guest=0123abcd pass=2 BAD files=kept.2 rewritten.1\r\n`,
      /wrong memory.*kept\.2/,
    ],
    ["wrong memory, in a line that was cut", "es=kept.2\r\n", /wrong memory/],
    ["another guest", pass(1, 1) + pass(2, 2, "89ef0123"), /do not follow.*0123abcd pass 2.*89ef0123 pass 2/],
    ["a lost pass", pass(1, 1) + pass(3, 2), /do not follow/],
    ["a repeated pass", pass(1, 1) + pass(1, 2), /do not follow/],
    ["a clock that goes back", pass(1, 5) + pass(2, 4.99), /clock went back/],
    ["a panic", "[    9.1] Kernel panic - not syncing: Attempted to kill init!\r\n", /kernel failed/],
    ["a lockup", "[   99.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\r\n", /kernel failed/],
  ])("%s", (_what, text, message) => {
    expect(() => new LinuxReport().push(text)).toThrow(message);
  });
});
