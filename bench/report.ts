import fs from "node:fs";
import os from "node:os";

import { findQemu } from "../tests/support/qemu.js";
import { QEMU_VERSION } from "./guest.js";
import type { Row } from "./rows.js";
import { type Sample, type Spread, spreadOf } from "./sample.js";

/** A row with all that was measured and what follows from it. */
export interface RowReport {
  readonly name: string;
  readonly group: Row["group"];
  readonly isBaseline: boolean;
  readonly moveMs: Spread;
  readonly syncMs: Spread;
  readonly wholeMs: Spread;
  /** Guest RAM over the time to move it. */
  readonly bytesPerSecond: number;
  /** How many times as fast as the baseline, round by round: above 1 is faster. */
  readonly ratio?: Spread;
  readonly qemuCpuMs?: number;
  readonly ramportCpuMs?: number;
  readonly ramportPeakBytes?: number;
  readonly samples: readonly Sample[];
}

/** Works out the table from the samples of each row. */
export function reportRows(
  rows: readonly Row[],
  samples: ReadonlyMap<string, readonly Sample[]>,
  ramBytes: number,
): RowReport[] {
  return rows.map((row) => {
    const own = samples.get(row.name) ?? [];
    const moveMs = spreadOf(own.map((sample) => sample.moveMs));
    const base = row.baseline === undefined ? undefined : samples.get(row.baseline);
    const costs = own.flatMap(({ ramport }) => ramport ?? []);
    const qemuCpu = own.flatMap(({ qemuCpuMs }) => qemuCpuMs ?? []);
    return {
      name: row.name,
      group: row.group,
      isBaseline: row.baseline === undefined,
      moveMs,
      syncMs: spreadOf(own.map((sample) => sample.syncMs)),
      wholeMs: spreadOf(own.map((sample) => sample.wholeMs)),
      bytesPerSecond: (ramBytes * 1000) / moveMs.median,
      ...(base === undefined
        ? {}
        : { ratio: spreadOf(own.map((sample, round) => (base[round]?.moveMs ?? NaN) / sample.moveMs)) }),
      ...(qemuCpu.length === 0 ? {} : { qemuCpuMs: spreadOf(qemuCpu).median }),
      ...(costs.length === 0
        ? {}
        : {
            ramportCpuMs: spreadOf(costs.map((cost) => cost.cpuMs)).median,
            ramportPeakBytes: spreadOf(costs.map((cost) => cost.peakBytes)).max,
          }),
      samples: own,
    };
  });
}

const HEADINGS = [
  "",
  "move, ms",
  "GiB/s",
  "ratio",
  "sync, ms",
  "whole, ms",
  "CPU s: QEMU",
  "ramport",
  "peak MiB",
];

/** The table as Markdown, which is also fit to be read in a terminal. */
export function formatTable(reports: readonly RowReport[]): string {
  const lines = reports.map((report) => [
    report.name,
    formatSpread(report.moveMs, 0),
    (report.bytesPerSecond / 2 ** 30).toFixed(2),
    report.ratio === undefined ? (report.isBaseline ? "1" : "") : formatSpread(report.ratio, 2),
    report.syncMs.max === 0 ? "" : formatSpread(report.syncMs, 0),
    formatSpread(report.wholeMs, 0),
    report.qemuCpuMs === undefined ? "" : (report.qemuCpuMs / 1000).toFixed(2),
    report.ramportCpuMs === undefined ? "" : (report.ramportCpuMs / 1000).toFixed(2),
    report.ramportPeakBytes === undefined ? "" : (report.ramportPeakBytes / 2 ** 20).toFixed(0),
  ]);
  return formatMarkdown(HEADINGS, lines);
}

/** A Markdown table with its columns in line: the first to the left, the others to the right. */
export function formatMarkdown(headings: readonly string[], lines: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...lines.map((cells) => (cells[column] ?? "").length)),
  );
  const format = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0))).join(" | ")} |`;
  const rule = `| ${widths.map((width, column) => (column === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)).join(" | ")} |`;
  return [format(headings), rule, ...lines.map(format)].join("\n");
}

/** Median, lowest and highest. */
export function formatSpread({ median, min, max }: Spread, digits: number): string {
  return `${median.toFixed(digits)} (${min.toFixed(digits)}–${max.toFixed(digits)})`;
}

/** What the figures depend on. */
export interface Surroundings {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  readonly qemu: string;
  readonly fileSystem: string;
}

/** Numbers that statfs gives for the usual file systems. */
const FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0xef53, "ext4"],
  [0x5846_5342, "xfs"],
  [0x9123_683e, "btrfs"],
  [0x0102_1994, "tmpfs"],
  [0x794c_7630, "overlayfs"],
]);

/** Looks at this machine and at the file system of a directory. */
export function describeSurroundings(directory: string): Surroundings {
  const qemu = findQemu(QEMU_VERSION);
  const { type } = fs.statfsSync(directory);
  return {
    cpu: os.cpus()[0]?.model ?? "unknown",
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    kernel: `${os.type()} ${os.release()}`,
    node: process.version,
    qemu: qemu.found ? qemu.realVersion : qemu.reason,
    fileSystem: FILE_SYSTEMS.get(type) ?? `0x${type.toString(16)}`,
  };
}
