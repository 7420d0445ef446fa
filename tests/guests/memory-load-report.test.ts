import { expect, test } from "vitest";

import { parseTimings, parseVerifications } from "../../guests/memory-load-report.js";
import { parseSerialReport } from "../../guests/serial-report.js";

const TIMED =
  "ramport-guest id=0000AB12 timed=00000003 from=00000001FFFFFFF0 to=0000000200000410 0000001F:00000002 00000020:00000001\n";

test("a timing's entries are durations and counts", () => {
  // 0x1f is 31 x 2^0, 0x20 is 16 x 2^1: each stands for the middle of what falls into it.
  expect(parseTimings(TIMED)).toEqual([
    {
      pass: 3,
      ticks: 0x420,
      toTicks: 0x200000410,
      accesses: [
        { ticks: 31.5, count: 2 },
        { ticks: 33, count: 1 },
      ],
    },
  ]);
});

test("a line that is not whole yet is not read", () => {
  expect(parseTimings(TIMED.slice(0, -1))).toEqual([]);
});

test("only good verifications are returned, and a bad one is an error of the passes", () => {
  const good = "ramport-guest id=0000AB12 verified=00003F00 pass=00000005 ok\n";
  const bad = "ramport-guest id=0000AB12 verified=00003F00 pass=00000005 BAD addr=0000000123456FFC\n";
  expect(parseVerifications(good + bad)).toEqual([{ pages: 0x3f00, pass: 5 }]);
  expect(parseSerialReport(good)).toEqual([]);
  expect(() => parseSerialReport(bad)).toThrow(/found wrong memory/);
});
