import { describe, expect, it } from "vitest";

import { formatTable, PEAK_LIMIT_BYTES, reportRows } from "../../bench/report.js";
import type { Measured } from "../../bench/row.js";
import type { Sample } from "../../bench/sample.js";

const GIB = 2 ** 30;

function sample(moveMs: number, more: Partial<Sample> = {}): Sample {
  return { moveMs, syncMs: 0, wholeMs: moveMs, bytes: GIB, ...more };
}

const ROWS = [
  { name: "base" },
  {
    name: "ours",
    baseline: "base",
    comparisons: [
      { of: "base", label: "the base", atLeast: 0.8, warmOnly: true as const },
      { of: "other", label: "the other" },
    ],
  },
  { name: "other" },
];

describe("reportRows", () => {
  it("takes ratios within a round, and the median of them", () => {
    const samples: Measured = new Map([
      // The second round was disturbed, for both.
      ["base", [sample(100), sample(1000), sample(100)]],
      ["ours", [sample(125), sample(1250), sample(200)]],
      ["other", [sample(250), sample(2500), sample(400)]],
    ]);
    const [, ours] = reportRows(ROWS, samples);
    expect(ours).toMatchObject({
      moveMs: { median: 200, min: 125, max: 1250 },
      ratio: { median: 0.8, min: 0.5, max: 0.8 },
      comparisons: [
        { of: "base", atLeast: 0.8, met: true },
        { of: "other", ratio: { median: 2 } },
      ],
    });
  });

  it("compares speeds where rows have other amounts of bytes to pass", () => {
    const samples: Measured = new Map([
      ["base", [sample(100)]],
      ["ours", [sample(250, { bytes: 2 * GIB })]],
    ]);
    const [, ours] = reportRows(ROWS, samples);
    expect(ours).toMatchObject({ ratio: { median: 0.8 }, bytesPerSecond: 8 * GIB });
  });

  it("counts only the rounds that both rows have", () => {
    const samples: Measured = new Map([
      ["base", [sample(100)]],
      ["ours", [sample(100), sample(1)]],
    ]);
    const [, ours] = reportRows(ROWS, samples);
    expect(ours).toMatchObject({ ratio: { max: 1 } });
  });

  it("says what was missed, and asks nothing of a cold page cache that is for a warm one", () => {
    const samples: Measured = new Map([
      ["base", [sample(100)]],
      ["ours", [sample(200)]],
    ]);
    const [, warm] = reportRows(ROWS, samples);
    const [, cold] = reportRows(ROWS, samples, false);
    expect(warm).toMatchObject({ comparisons: [{ met: false }] });
    expect(cold).toHaveProperty("comparisons.0.ratio.median", 0.5);
    expect(cold).not.toHaveProperty("comparisons.0.met");
  });

  it("has no ratio to a row that could not be measured", () => {
    const samples: Measured = new Map<string, readonly Sample[] | string>([
      ["base", "no python3"],
      ["ours", [sample(100)]],
    ]);
    const [base, ours] = reportRows(ROWS, samples);
    expect(base).toEqual({ name: "base", notMeasured: "no python3" });
    expect(ours).not.toHaveProperty("ratio");
    expect(ours).toMatchObject({ comparisons: [] });
  });

  it("counts processor time for each GiB, and keeps the highest peak", () => {
    const cost = (cpuMs: number, peakBytes: number): Partial<Sample> => ({
      bytes: 2 * GIB,
      qemuCpuMs: 500,
      ramport: { cpuMs, peakBytes },
    });
    const samples: Measured = new Map([["ours", [sample(1, cost(200, 7)), sample(1, cost(400, 5))]]]);
    const [, ours] = reportRows(ROWS, samples);
    expect(ours).toMatchObject({
      cpuSecondsPerGiB: { qemu: 0.25, ramport: expect.closeTo(0.15) as number },
      ramportPeakBytes: 7,
    });
  });
});

describe("formatTable", () => {
  it("marks goals and memory, and gives reasons below the table", () => {
    const samples: Measured = new Map<string, readonly Sample[] | string>([
      ["base", [sample(100)]],
      ["ours", [sample(200, { ramport: { cpuMs: 1, peakBytes: PEAK_LIMIT_BYTES } })]],
      ["other", "not there"],
    ]);
    const text = formatTable(reportRows(ROWS, samples));
    expect(text).toContain("0.50 × the base, MISSED (0.8)");
    expect(text).toContain("150 MISSED |");
    expect(text).toContain("\n\n- other: not measured: not there");
    const widths = new Set(
      text
        .split("\n\n")[0]!
        .split("\n")
        .map((line) => line.length),
    );
    expect(widths.size).toBe(1);
  });
});
