/** One run of one row. Times are in milliseconds. */
export interface Sample {
  /** What the operation itself took, without the time that syncing its output took. */
  readonly moveMs: number;
  /** How long `fsync` of the output took; 0 where there is no output. */
  readonly syncMs: number;
  /** The whole operation as its user sees it, syncing included. */
  readonly wholeMs: number;
  /** Bytes that were moved, or read: rates and ratios are of them. Holes and pages without content do not count. */
  readonly bytes: number;
  /** Processor time of QEMU and of what it started (`cat`). */
  readonly qemuCpuMs?: number;
  /** Processor time of another program: cp, dd, Python. */
  readonly toolCpuMs?: number;
  /** Of the ramport process alone. */
  readonly ramport?: ProcessCost;
}

/** What the ramport process took. */
export interface ProcessCost {
  readonly cpuMs: number;
  /** Highest resident set, above what Node and the loaded modules had before. */
  readonly peakBytes: number;
}

/** Median and the two ends. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Sums up numbers; there must be at least one. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[sorted.length >> 1] ?? NaN;
  const lower = sorted[(sorted.length - 1) >> 1] ?? NaN;
  return { median: (lower + upper) / 2, min: sorted[0] ?? NaN, max: sorted.at(-1) ?? NaN };
}
