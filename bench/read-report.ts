import type { ReadRow } from "./read-rows.js";
import { formatMarkdown, formatSpread } from "./report.js";
import { type Sample, type Spread, spreadOf } from "./sample.js";

/** A row of the second table with all that was measured, or why nothing was. */
export type ReadRowReport = Pick<ReadRow, "name" | "group"> &
  (
    | { readonly notMeasured: string }
    | {
        readonly isBaseline: boolean;
        readonly moveMs: Spread;
        readonly syncMs: Spread;
        readonly wholeMs: Spread;
        /** How many times as fast as the baseline, by the medians: above 1 is faster. */
        readonly moveRatio?: number;
        readonly wholeRatio?: number;
        readonly cpuMs?: number;
        readonly samples: readonly Sample[];
      }
  );

type Measured = ReadonlyMap<string, readonly Sample[] | string>;

/** Works out the second table; slow rows have fewer rounds, so that ratios are of medians. */
export function reportReadRows(rows: readonly ReadRow[], samples: Measured): ReadRowReport[] {
  return rows.map(({ name, group, baseline }): ReadRowReport => {
    const own = samples.get(name) ?? [];
    if (typeof own === "string") return { name, group, notMeasured: own };
    const base = samples.get(baseline ?? "");
    const spread = (of: readonly Sample[], field: "moveMs" | "syncMs" | "wholeMs"): Spread =>
      spreadOf(of.map((sample) => sample[field]));
    const ratio = (field: "moveMs" | "wholeMs"): number =>
      typeof base === "object" ? spread(base, field).median / spread(own, field).median : NaN;
    const cpu = own.flatMap(({ ramport }) => ramport?.cpuMs ?? []);
    return {
      name,
      group,
      isBaseline: baseline === undefined,
      moveMs: spread(own, "moveMs"),
      syncMs: spread(own, "syncMs"),
      wholeMs: spread(own, "wholeMs"),
      ...(typeof base === "object" ? { moveRatio: ratio("moveMs"), wholeRatio: ratio("wholeMs") } : {}),
      ...(cpu.length === 0 ? {} : { cpuMs: spreadOf(cpu).median }),
      samples: own,
    };
  });
}

const HEADINGS = ["", "move, ms", "ratio", "sync, ms", "whole, ms", "ratio of whole", "CPU s"];

/** As Markdown, like the first table. */
export function formatReadTable(reports: readonly ReadRowReport[]): string {
  const lines = reports.map((report) => {
    if ("notMeasured" in report)
      return [report.name, `not measured: ${report.notMeasured}`, "", "", "", "", ""];
    const { isBaseline, syncMs, moveRatio, wholeRatio, cpuMs } = report;
    const ratio = (value: number | undefined): string => value?.toFixed(2) ?? (isBaseline ? "1" : "");
    const syncs = syncMs.max > 0;
    return [
      report.name,
      formatSpread(report.moveMs, 0),
      ratio(moveRatio),
      syncs ? formatSpread(syncMs, 0) : "",
      syncs ? formatSpread(report.wholeMs, 0) : "",
      syncs ? ratio(wholeRatio) : "",
      cpuMs === undefined ? "" : (cpuMs / 1000).toFixed(2),
    ];
  });
  return formatMarkdown(HEADINGS, lines);
}
