import type { Sample } from "./sample.js";

/** Another row of the same part that a row is compared with. */
export interface Comparison {
  /** The other row's name. */
  readonly of: string;
  /** The other row's name in the table's column of goals. */
  readonly label: string;
  /** How many times as fast as the other one this row is to be; none where it is only good to know. */
  readonly atLeast?: number;
  /** The goal says nothing of a cold page cache, where all wait for the disk. */
  readonly warmOnly?: true;
}

/** One line of a table. */
export interface Row<Setting, S = Sample> {
  readonly name: string;
  /** Name of the row that the column "ratio" is of; none for that row itself. */
  readonly baseline?: string;
  readonly comparisons?: readonly Comparison[];
  /** Takes many seconds: fewer rounds, and no first one that is not counted. */
  readonly isSlow?: boolean;
  /** Returns why, when it cannot be measured. */
  measure(setting: Setting): Promise<S | string>;
}

/** Samples of each row by its name, or why there are none. */
export type Measured<S = Sample> = ReadonlyMap<string, readonly S[] | string>;

/** Rounds of what takes many seconds. */
const SLOW_RUNS = 2;

/**
 * Row after row, and that again: whatever disturbs the machine disturbs all rows.
 *
 * @param place What to call these rounds while they run.
 */
export async function measureRounds<Setting, S>(
  setting: Setting,
  rows: readonly Row<Setting, S>[],
  runs: number,
  place: string,
): Promise<Measured<S>> {
  const samples = new Map<string, S[] | string>(rows.map(({ name }) => [name, []]));
  // Round 0 is not counted: QEMU's first migrations allocate what later ones reuse, and inputs come into the page cache.
  for (let round = 0; round <= runs; round++) {
    for (const row of rows) {
      const own = samples.get(row.name);
      if (typeof own !== "object" || (row.isSlow === true && (round === 0 || round > SLOW_RUNS))) continue;
      process.stderr.write(`${place}, round ${round} of ${runs}: ${row.name}\n`);
      const sample = await row.measure(setting);
      if (typeof sample === "string") samples.set(row.name, sample);
      else if (round > 0) own.push(sample);
    }
  }
  return samples;
}

/**
 * Rows whose `part: name` contains a text, and those that they are compared with.
 *
 * @param only All rows when not given.
 */
export function selectRows<Setting, S>(
  part: string,
  rows: readonly Row<Setting, S>[],
  only: string | undefined,
): readonly Row<Setting, S>[] {
  if (only === undefined) return rows;
  const named = rows.filter(({ name }) => `${part}: ${name}`.includes(only));
  const needed = new Set(
    named.flatMap(({ name, baseline, comparisons = [] }) => [
      name,
      baseline,
      ...comparisons.map(({ of }) => of),
    ]),
  );
  return rows.filter(({ name }) => needed.has(name));
}
