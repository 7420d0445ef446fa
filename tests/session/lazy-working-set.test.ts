import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { planWorkingSet, prefetchOf, recordWorkingSet } from "../../src/session/lazy-working-set.js";
import { writeWorkingSet } from "../../src/snapshot/index.js";
import { useWorkDir } from "../support/work-dir.js";

const PAGE = 4096;
const workDir = useWorkDir();
const identity = {
  targetPageSize: PAGE,
  blocks: [
    { name: "ram", usedLength: 100 * PAGE },
    { name: "rom", usedLength: 10 * PAGE },
  ],
  fingerprint: new Uint8Array(16).fill(1),
};

test("a working set has the pages that were asked for in order, once, and runs of them together", () => {
  const set = recordWorkingSet(identity, [
    { block: "ram", start: 20, end: 21 },
    { block: "rom", start: 8, end: 10 },
    { block: "ram", start: 31, end: 32 },
    { block: "ram", start: 20, end: 21 },
    { block: "gone", start: 0, end: 1 },
    { block: "ram", start: 32, end: 33 },
    { block: "ram", start: 99, end: 100 },
  ]);
  expect(set.runs).toEqual([
    { block: 0, firstPage: 20, pageCount: 1 },
    { block: 1, firstPage: 8, pageCount: 2 },
    { block: 0, firstPage: 31, pageCount: 2 },
    { block: 0, firstPage: 99, pageCount: 1 },
  ]);
  expect([...prefetchOf(set, "after-run", 4 * PAGE).runs]).toEqual([
    { block: "ram", start: 20, end: 21 },
    { block: "rom", start: 8, end: 10 },
    { block: "ram", start: 31, end: 32 },
  ]);
});

describe("which working set is used", () => {
  const plan = (chosen: boolean, said: string[] = []) =>
    planWorkingSet(workDir.file("vm.ws"), chosen, identity, (message) => said.push(message));
  const set = { ...identity, runs: [{ block: 0, firstPage: 1, pageCount: 2 }] };

  test("none is there: one is recorded", () => {
    expect(plan(false).known).toBeUndefined();
  });

  test("the snapshot's own", async () => {
    await writeWorkingSet(set, workDir.file("vm.ws"));
    expect(plan(false).known).toEqual(set);
  });

  test("one of another snapshot is recorded anew, and used where it was chosen", async () => {
    const other = { ...set, fingerprint: new Uint8Array(16).fill(2) };
    await writeWorkingSet(other, workDir.file("vm.ws"));
    const said: string[] = [];
    expect(plan(false, said).known).toBeUndefined();
    expect(plan(true, said).known).toEqual(other);
    expect(said).toEqual([
      expect.stringContaining("is of another snapshot: it is recorded anew"),
      expect.stringContaining("used all the same"),
    ]);
  });

  test("one of another guest is refused where it was chosen", async () => {
    const other = { ...set, blocks: [{ name: "ram", usedLength: 4 * PAGE }] };
    await writeWorkingSet(other, workDir.file("vm.ws"));
    expect(() => plan(true)).toThrow(/of another guest: 1 blocks, and 2/);
  });

  test("a damaged one is recorded anew, and refused where it was chosen", async () => {
    await writeWorkingSet(set, workDir.file("vm.ws"));
    const bytes = readFileSync(workDir.file("vm.ws"));
    writeFileSync(workDir.file("vm.ws"), bytes.subarray(0, bytes.length - 3));
    expect(plan(false).known).toBeUndefined();
    expect(() => plan(true)).toThrow(/checksum/);
  });
});
