import type { Comparison, Measured, Row } from "./row.js";
import { type Sample, type Spread, spreadOf } from "./sample.js";
import { formatMarkdown, formatSpread } from "./table.js";

/** Most memory that ramport may take above Node's own, whatever the file's size. */
export const PEAK_LIMIT_BYTES = 150 * 2 ** 20;

/** How a row stands beside another. */
export interface ComparisonReport {
  readonly of: string;
  readonly label: string;
  /** How many times as fast, round by round: above 1 is faster. */
  readonly ratio: Spread;
  readonly atLeast?: number;
  /** By the median. */
  readonly met?: boolean;
}

/** What was measured of a row and what follows from it. */
export interface MeasuredRow {
  readonly name: string;
  readonly moveMs: Spread;
  readonly syncMs: Spread;
  readonly wholeMs: Spread;
  readonly bytesPerSecond: number;
  /** Against the baseline. */
  readonly ratio?: Spread;
  readonly comparisons: readonly ComparisonReport[];
  /** Medians, for each GiB moved or read. */
  readonly cpuSecondsPerGiB: { readonly qemu?: number; readonly ramport?: number; readonly tool?: number };
  /** The highest of all rounds. */
  readonly ramportPeakBytes?: number;
  readonly samples: readonly Sample[];
}

/** A row with its figures, or why there are none. */
export type RowReport = MeasuredRow | { readonly name: string; readonly notMeasured: string };

type ReportedRow = Pick<Row<never>, "name" | "baseline" | "comparisons">;

/**
 * Works out a table from the samples of each row.
 *
 * @param isWarm Whether goals that are for a warm page cache count.
 */
export function reportRows(rows: readonly ReportedRow[], samples: Measured, isWarm = true): RowReport[] {
  return rows.map((row) => {
    const own = samples.get(row.name) ?? [];
    if (typeof own === "string") return { name: row.name, notMeasured: own };
    return reportRow(row, own, samples, isWarm);
  });
}

function reportRow(
  row: ReportedRow,
  own: readonly Sample[],
  samples: Measured,
  isWarm: boolean,
): MeasuredRow {
  const spread = (of: (sample: Sample) => number): Spread => spreadOf(own.map(of));
  const ratio = row.baseline === undefined ? undefined : ratioOf(own, samples.get(row.baseline));
  const peaks = own.flatMap(({ ramport }) => ramport?.peakBytes ?? []);
  return {
    name: row.name,
    moveMs: spread(({ moveMs }) => moveMs),
    syncMs: spread(({ syncMs }) => syncMs),
    wholeMs: spread(({ wholeMs }) => wholeMs),
    bytesPerSecond: spread(speedOf).median * 1000,
    ...(ratio === undefined ? {} : { ratio }),
    comparisons: (row.comparisons ?? []).flatMap((comparison) =>
      compare(comparison, own, samples.get(comparison.of), isWarm),
    ),
    cpuSecondsPerGiB: {
      ...cpuPerGiB(own, "qemu", ({ qemuCpuMs }) => qemuCpuMs),
      ...cpuPerGiB(own, "ramport", ({ ramport }) => ramport?.cpuMs),
      ...cpuPerGiB(own, "tool", ({ toolCpuMs }) => toolCpuMs),
    },
    ...(peaks.length === 0 ? {} : { ramportPeakBytes: Math.max(...peaks) }),
    samples: own,
  };
}

/** Bytes a millisecond. */
function speedOf({ bytes, moveMs }: Sample): number {
  return bytes / moveMs;
}

/** Samples of one round are compared: slow rows have fewer of them. */
function ratioOf(own: readonly Sample[], base: readonly Sample[] | string | undefined): Spread | undefined {
  if (typeof base !== "object" || base.length === 0 || own.length === 0) return undefined;
  const ratios = own.flatMap((sample, round) => {
    const other = base[round];
    return other === undefined ? [] : [speedOf(sample) / speedOf(other)];
  });
  return spreadOf(ratios);
}

function compare(
  { of, label, atLeast, warmOnly }: Comparison,
  own: readonly Sample[],
  base: readonly Sample[] | string | undefined,
  isWarm: boolean,
): ComparisonReport[] {
  const ratio = ratioOf(own, base);
  if (ratio === undefined) return [];
  const counts = atLeast !== undefined && (isWarm || warmOnly !== true);
  return [{ of, label, ratio, ...(counts ? { atLeast, met: ratio.median >= atLeast } : {}) }];
}

function cpuPerGiB(
  own: readonly Sample[],
  who: keyof MeasuredRow["cpuSecondsPerGiB"],
  cpuMsOf: (sample: Sample) => number | undefined,
): MeasuredRow["cpuSecondsPerGiB"] {
  const values = own.flatMap((sample) => {
    const cpuMs = cpuMsOf(sample);
    return cpuMs === undefined ? [] : [cpuMs / 1000 / (sample.bytes / 2 ** 30)];
  });
  return values.length === 0 ? {} : { [who]: spreadOf(values).median };
}

const HEADINGS = [
  "",
  "move, ms",
  "GiB/s",
  "ratio",
  "goals",
  "sync, ms",
  "whole, ms",
  "CPU s/GiB: QEMU",
  "ramport",
  "other",
  "peak MiB",
];

/** The table as Markdown, which is also fit to be read in a terminal. */
export function formatTable(reports: readonly RowReport[]): string {
  const lines = reports.map((report) => {
    if ("notMeasured" in report) return [report.name, "not measured"];
    const { ratio, syncMs, cpuSecondsPerGiB: cpu, ramportPeakBytes: peak } = report;
    return [
      report.name,
      formatSpread(report.moveMs, 0),
      (report.bytesPerSecond / 2 ** 30).toFixed(2),
      ratio === undefined ? "" : formatSpread(ratio, 2),
      report.comparisons.map(formatComparison).join("; "),
      syncMs.max === 0 ? "" : formatSpread(syncMs, 0),
      formatSpread(report.wholeMs, 0),
      ...[cpu.qemu, cpu.ramport, cpu.tool].map((seconds) => seconds?.toFixed(2) ?? ""),
      peak === undefined ? "" : `${(peak / 2 ** 20).toFixed(0)}${peak < PEAK_LIMIT_BYTES ? "" : " MISSED"}`,
    ];
  });
  // A reason in a cell would make all of its column as wide.
  const reasons = reports.flatMap((report) =>
    "notMeasured" in report ? [`- ${report.name}: not measured: ${report.notMeasured}`] : [],
  );
  const table = formatMarkdown(HEADINGS, lines);
  return reasons.length === 0 ? table : `${table}\n\n${reasons.join("\n")}`;
}

function formatComparison({ label, ratio, atLeast, met }: ComparisonReport): string {
  const beside = `${ratio.median.toFixed(2)} × ${label}`;
  if (atLeast === undefined) return beside;
  return `${beside}, ${met === true ? "met" : "MISSED"} (${atLeast})`;
}
