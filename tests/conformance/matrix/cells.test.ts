/** The matrix itself: complete, every exclusion with a use, nothing known to fail. */

import { describe, expect, test } from "vitest";

import {
  CELLS,
  type Cell,
  cellsToRun,
  DIMENSIONS,
  EXCLUSIONS,
  exclusionOf,
  KNOWN_FAILURES,
  nameOf,
  sampleOf,
} from "./cells.js";

const run = CELLS.filter((cell) => exclusionOf(cell) === undefined);
const byRule = EXCLUSIONS.map((rule) => CELLS.filter((cell) => exclusionOf(cell) === rule));

const sizes: readonly number[] = Object.values(DIMENSIONS).map(({ length }) => length);

function valuesOf(cells: readonly Cell[]): readonly string[] {
  const values = cells.flatMap((cell) => Object.entries(cell).map(([name, value]) => `${name} ${value}`));
  return [...new Set(values)].sort();
}

describe("the conformance matrix", () => {
  test("has every combination once", () => {
    expect(CELLS).toHaveLength(sizes.reduce((product, size) => product * size));
    expect(new Set(CELLS.map(nameOf)).size).toBe(CELLS.length);
  });

  test("each cell is run by one file, or taken out by the first rule that fits it", () => {
    const files = DIMENSIONS.version.flatMap((version) =>
      DIMENSIONS.role.map((role) => cellsToRun(version, role)),
    );
    const names = [...files.flat(), ...byRule.flat()].map(nameOf);
    expect([...names].sort()).toEqual(CELLS.map(nameOf).sort());
    for (const cell of CELLS) {
      const first = EXCLUSIONS.findIndex(({ fits }) => fits(cell));
      expect(byRule.findIndex((cells) => cells.includes(cell))).toBe(first);
    }
  });

  // A rule that takes out more than it did is looked at by whoever changes these numbers.
  test("the counts", () => {
    const counts = { cells: CELLS.length, run: run.length, excluded: byRule.map(({ length }) => length) };
    console.log(
      [
        `Conformance matrix: ${CELLS.length} cells, ${run.length} run, ${CELLS.length - run.length} excluded, ` +
          `${KNOWN_FAILURES.length} known failures`,
        ...EXCLUSIONS.map(({ reason }, index) => `  ${byRule[index]!.length} excluded: ${reason}`),
      ].join("\n"),
    );
    expect(counts).toEqual({ cells: 810, run: 384, excluded: [108, 234, 78, 6] });
  });

  test("each role runs every value of every dimension that it can have", () => {
    const versions = { receive: DIMENSIONS.zeroPages.length, send: 1 };
    for (const role of DIMENSIONS.role) {
      const cells = run.filter((cell) => cell.role === role);
      const all = sizes.reduce((sum, size) => sum + size) - DIMENSIONS.role.length + 1;
      expect(valuesOf(cells)).toHaveLength(all - DIMENSIONS.zeroPages.length + versions[role]);
    }
  });

  test("the sample of each file has each value of its cells", () => {
    for (const version of DIMENSIONS.version) {
      for (const role of DIMENSIONS.role) {
        const cells = cellsToRun(version, role);
        const sample = sampleOf(cells);
        expect(valuesOf(sample)).toEqual(valuesOf(cells));
        expect(sample.length).toBeLessThanOrEqual(6);
      }
    }
  });

  test("nothing is known to fail", () => {
    expect(KNOWN_FAILURES).toEqual([]);
  });
});
