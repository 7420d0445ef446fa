import type { InstantSample } from "./instant-sample.js";
import type { Measured } from "./row.js";
import { type Spread, spreadOf } from "./sample.js";
import { formatMarkdown, formatSpread } from "./table.js";

/** What a row is to reach. */
export interface InstantGoal {
  readonly label: string;
  /** How many times as much of the first as of the second; in samples of the same round. */
  readonly ratio: (own: InstantSample, other: InstantSample) => number;
  /** Name of the row that the other sample is of: the same row where it is about one sample alone. */
  readonly of: string;
  /** The guest's memory for which it counts; any where not given. */
  readonly memoryBytes?: number;
  /** The other sample is of the table with so much memory, and with the same page cache. */
  readonly otherMemoryBytes?: number;
  readonly atLeast?: number;
  readonly atMost?: number;
}

/** How a goal is met. */
export interface GoalReport {
  readonly label: string;
  readonly ratio: Spread;
  readonly limit: number;
  /** By the median. */
  readonly met: boolean;
}

/** What was measured of a row. */
export type InstantRowReport =
  | {
      readonly name: string;
      readonly goals: readonly GoalReport[];
      readonly samples: readonly InstantSample[];
    }
  | { readonly name: string; readonly notMeasured: string };

/** Samples of the tables with the same page cache, by the guest's memory. */
export type InstantTables = ReadonlyMap<number, Measured<InstantSample>>;

/** Works out a table from the samples of each row. */
export function reportInstant(
  rows: readonly { readonly name: string; readonly goals?: readonly InstantGoal[] }[],
  memoryBytes: number,
  tables: InstantTables,
): InstantRowReport[] {
  return rows.map(({ name, goals = [] }) => {
    const samples = tables.get(memoryBytes)?.get(name) ?? [];
    if (typeof samples === "string") return { name, notMeasured: samples };
    return { name, goals: goals.flatMap((goal) => reportGoal(goal, samples, memoryBytes, tables)), samples };
  });
}

function reportGoal(
  goal: InstantGoal,
  own: readonly InstantSample[],
  memoryBytes: number,
  tables: InstantTables,
): GoalReport[] {
  if (goal.memoryBytes !== undefined && goal.memoryBytes !== memoryBytes) return [];
  const others = tables.get(goal.otherMemoryBytes ?? memoryBytes)?.get(goal.of);
  if (typeof others !== "object") return [];
  const ratios = own.flatMap((sample, round) => {
    const other = others[round];
    return other === undefined ? [] : [goal.ratio(sample, other)];
  });
  if (ratios.length === 0) return [];
  const ratio = spreadOf(ratios);
  const { label, atLeast = -Infinity, atMost = Infinity } = goal;
  const met = ratio.median >= atLeast && ratio.median <= atMost;
  return [{ label, ratio, limit: goal.atLeast ?? goal.atMost ?? NaN, met }];
}

const HEADINGS = [
  "",
  "runs, ms",
  "first output, ms",
  "first pass done, ms",
  "all resident, ms",
  "first pass, ms",
  "later pass, ms",
  "waits",
  "p50, µs",
  "p99, µs",
  "CPU ms: QEMU",
  "ramport",
  "start ms: QEMU",
  "ramport",
];

/** The table as Markdown, and its goals below it. */
export function formatInstant(reports: readonly InstantRowReport[]): string {
  const lines = reports.map((report) => {
    if ("notMeasured" in report) return [report.name, "not measured"];
    const cell = (of: (sample: InstantSample) => number | undefined, digits = 0): string => {
      const values = report.samples.flatMap((sample) => of(sample) ?? []);
      return values.length === 0 ? "" : formatSpread(spreadOf(values), digits);
    };
    const median = (of: (sample: InstantSample) => number | undefined): string => cell(of).replace(/ .*/, "");
    return [
      report.name,
      cell(({ resumeMs }) => resumeMs),
      cell(({ firstOutputMs }) => firstOutputMs),
      cell(({ firstPassMs }) => firstPassMs),
      cell(({ residentMs }) => residentMs),
      cell(({ passMs }) => passMs),
      median(({ laterPassMs }) => laterPassMs),
      median(({ waits }) => waits.count),
      median(({ waits }) => (waits.count === 0 ? undefined : waits.p50)),
      median(({ waits }) => (waits.count === 0 ? undefined : waits.p99)),
      median(({ qemuCpuMs }) => qemuCpuMs),
      median(({ ramportCpuMs }) => ramportCpuMs),
      median(({ qemuStartMs }) => qemuStartMs),
      median(({ ramportStartMs }) => ramportStartMs),
    ];
  });
  const below = reports.flatMap((report) =>
    "notMeasured" in report
      ? [`- ${report.name}: not measured: ${report.notMeasured}`]
      : report.goals.map((goal) => `- ${report.name}: ${formatGoal(goal)}`),
  );
  const table = formatMarkdown(HEADINGS, lines);
  return below.length === 0 ? table : `${table}\n\n${below.join("\n")}`;
}

function formatGoal({ label, ratio, limit, met }: GoalReport): string {
  return `${label}: ${formatSpread(ratio, 2)}, ${met ? "met" : "MISSED"} (${limit})`;
}
