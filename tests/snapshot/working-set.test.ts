import fc from "fast-check";
import { readdirSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { FormatError, UsageError } from "../../src/errors/index.js";
import {
  convertSnapshot,
  copySnapshot,
  decodeWorkingSet,
  encodeWorkingSet,
  isSameSnapshot,
  mergeWorkingSets,
  openSnapshot,
  readWorkingSet,
  readWorkingSetIfThere,
  trimWorkingSet,
  type WorkingSet,
  workingSetIdentity,
  WorkingSetLimits,
  workingSetNumbers,
  workingSetPathOf,
  WorkingSetRecorder,
  type WorkingSetRun,
  writeWorkingSet,
} from "../../src/snapshot/index.js";
import { Limits } from "../../src/wire/index.js";
import { useWorkDir } from "../support/work-dir.js";
import { buildGuest, filled, PAGE } from "./build-guest.js";

const BLOCK_PAGES = [40, 3, 100_000];
const identity = {
  targetPageSize: PAGE,
  blocks: BLOCK_PAGES.map((pages, index) => ({ name: `block${index}`, usedLength: pages * PAGE })),
  fingerprint: Uint8Array.from({ length: 16 }, (_, index) => index),
};

/** Requests for pages that lie near each other, so that they meet. */
const requests: fc.Arbitrary<WorkingSetRun[]> = fc.array(
  fc
    .tuple(fc.nat({ max: BLOCK_PAGES.length - 1 }), fc.nat({ max: 50 }), fc.integer({ min: 1, max: 20 }))
    .chain(([block, firstPage, pageCount]) => {
      const pages = BLOCK_PAGES[block] ?? 1;
      const first = firstPage % pages;
      const count = Math.min(pageCount, pages - first);
      // Also where pieces of the recorder's bitmaps meet.
      const shift = block === 2 ? fc.constantFrom(0, 32_740, 65_500) : fc.constant(0);
      return shift.map((by) => ({ block, firstPage: first + by, pageCount: count }));
    }),
  { maxLength: 40 },
);

function record(runs: readonly WorkingSetRun[]): WorkingSet {
  const recorder = new WorkingSetRecorder(identity);
  for (const run of runs) recorder.add(run);
  return recorder.finish();
}

/** Every page by name, in order. */
function pagesOf(runs: readonly WorkingSetRun[]): string[] {
  return runs.flatMap(({ block, firstPage, pageCount }) =>
    Array.from({ length: pageCount }, (_, index) => `${block}:${firstPage + index}`),
  );
}

describe("recording", () => {
  test("has each page once, in the order of the first requests, in as few runs as that allows", () => {
    fc.assert(
      fc.property(requests, (asked) => {
        const set = record(asked);
        expect(pagesOf(set.runs)).toEqual([...new Set(pagesOf(asked))]);
        for (const [index, run] of set.runs.entries()) {
          const next = set.runs[index + 1];
          expect(next?.block === run.block && next.firstPage === run.firstPage + run.pageCount).toBe(false);
        }
      }),
    );
  });

  test("ends at a bound, and says so", () => {
    const recorder = new WorkingSetRecorder({
      ...identity,
      blocks: [{ name: "ram", usedLength: WorkingSetLimits.runs * 4 * PAGE }],
    });
    for (let run = 0; run < WorkingSetLimits.runs; run++) {
      recorder.add({ block: 0, firstPage: run * 2, pageCount: 1 });
    }
    expect(recorder.isFull).toBe(false);
    recorder.add({ block: 0, firstPage: WorkingSetLimits.runs * 3, pageCount: 1 });
    expect(recorder.isFull).toBe(true);
    expect(recorder.pageCount).toBe(WorkingSetLimits.runs);
  });
});

describe("merging and trimming", () => {
  test("a merged set has every page once, each recording's soonest first", () => {
    fc.assert(
      fc.property(fc.array(requests, { minLength: 1, maxLength: 4 }), (recordings) => {
        const sets = recordings.map(record);
        const set = mergeWorkingSets(sets);
        const merged = pagesOf(set.runs);
        expect(new Set(merged)).toEqual(new Set(recordings.flatMap(pagesOf)));
        expect(merged).toHaveLength(new Set(merged).size);
        const [first] = sets.flatMap(({ runs }) => pagesOf(runs).slice(0, 1));
        expect(merged[0]).toBe(first);
        expect(mergeWorkingSets([set, set])).toEqual(set);
      }),
    );
  });

  test("a page stands where the recording that asked soonest has it", () => {
    const a = record([
      { block: 0, firstPage: 0, pageCount: 10 },
      { block: 1, firstPage: 0, pageCount: 1 },
    ]);
    const b = record([
      { block: 0, firstPage: 20, pageCount: 1 },
      { block: 1, firstPage: 0, pageCount: 1 },
      { block: 0, firstPage: 30, pageCount: 10 },
    ]);
    expect(pagesOf(mergeWorkingSets([a, b]).runs)).toEqual([
      ...pagesOf([{ block: 0, firstPage: 0, pageCount: 10 }]),
      "0:20",
      "1:0",
      ...pagesOf([{ block: 0, firstPage: 30, pageCount: 10 }]),
    ]);
  });

  test("refuses none, and other guests", () => {
    expect(() => mergeWorkingSets([])).toThrow(UsageError);
    const other = { ...record([]), blocks: [{ name: "block0", usedLength: PAGE }] };
    expect(() => mergeWorkingSets([record([]), other])).toThrow(/different guests: 3 blocks, and 1/);
  });

  test("a trimmed set is the beginning, in whole pages", () => {
    fc.assert(
      fc.property(requests, fc.nat({ max: 300 * PAGE }), (asked, budget) => {
        const set = record(asked);
        const trimmed = trimWorkingSet(set, budget);
        expect(pagesOf(trimmed.runs)).toEqual(pagesOf(set.runs).slice(0, Math.floor(budget / PAGE)));
      }),
    );
  });
});

describe("the file's bytes", () => {
  test("come back as they were", () => {
    fc.assert(
      fc.property(requests, (asked) => {
        const set = record(asked);
        expect(decodeWorkingSet(encodeWorkingSet(set))).toEqual(set);
      }),
    );
  });

  test("take few bytes a run, also in the largest guests", () => {
    const usedLength = Limits.pages * PAGE;
    const far = { ...identity, blocks: [{ name: "ram", usedLength }] };
    const recorder = new WorkingSetRecorder(far);
    recorder.add({ block: 0, firstPage: Limits.pages - 1, pageCount: 1 });
    recorder.add({ block: 0, firstPage: 0, pageCount: 2 });
    const set = recorder.finish();
    expect(decodeWorkingSet(encodeWorkingSet(set))).toEqual(set);
    const near = record(
      Array.from({ length: 1000 }, (_, run) => ({ block: 2, firstPage: run * 60, pageCount: 16 })),
    );
    expect(encodeWorkingSet(near).length).toBeLessThan(1000 * 2 + 150);
  });

  test("with any byte changed, cut or added are refused", () => {
    const bytes = encodeWorkingSet(
      record([
        { block: 2, firstPage: 70_000, pageCount: 300 },
        { block: 0, firstPage: 3, pageCount: 2 },
      ]),
    );
    for (let at = 0; at < bytes.length; at++) {
      const damaged = bytes.slice();
      damaged[at]! ^= 1 << (at % 8);
      expect(() => decodeWorkingSet(damaged)).toThrow(FormatError);
      expect(() => decodeWorkingSet(bytes.subarray(0, at))).toThrow(FormatError);
    }
    expect(() => decodeWorkingSet(Uint8Array.of(...bytes, 0))).toThrow(FormatError);
  });

  const run = (block: number, firstPage: number, pageCount: number): WorkingSetRun => ({
    block,
    firstPage,
    pageCount,
  });
  test.each<[string, Partial<WorkingSet>, RegExp]>([
    ["a page twice", { runs: [run(0, 1, 3), run(1, 0, 1), run(0, 3, 1)] }, /Page 3 is in two runs/],
    ["a run past its block", { runs: [run(1, 2, 2)] }, /pages that no block has/],
    ["a run before its block", { runs: [run(1, -1, 1)] }, /pages that no block has/],
    ["a run of a block that is not there", { runs: [run(0, 0, 1), run(3, 0, 1)] }, /pages that no block has/],
    ["an empty run", { runs: [run(0, 0, 0)] }, /pages that no block has/],
    ["an impossible page size", { targetPageSize: 5000 }, /No target has such a page size/],
    ["a block of half a page", { blocks: [{ name: "ram", usedLength: 2048 }] }, /impossible length/],
    ["an endless block", { blocks: [{ name: "ram", usedLength: 2 ** 52 }] }, /impossible length/],
    ["a name twice", { blocks: [identity.blocks[0]!, identity.blocks[0]!] }, /Two blocks have one name/],
  ])("%s is refused, though the checksum is right", (_what, change, message) => {
    expect(() => decodeWorkingSet(encodeWorkingSet({ ...record([]), ...change }))).toThrow(message);
  });
});

describe("files", () => {
  const workDir = useWorkDir();
  const devices = (cpu: number): Parameters<typeof buildGuest>[0]["devices"] => [
    { name: "cpu", instance: 0, version: 1, payload: filled(cpu, 100), described: true },
  ];

  test("belong to a snapshot, and to its copies in any container", async () => {
    const pages = [filled(1), undefined, filled(2)];
    writeFileSync(workDir.file("a.ram"), buildGuest({ blocks: { ram: pages }, devices: devices(1) }).bytes);
    writeFileSync(workDir.file("b.ram"), buildGuest({ blocks: { ram: pages }, devices: devices(2) }).bytes);
    await copySnapshot(workDir.file("a.ram"), workDir.file("copy.ram"));
    await convertSnapshot(workDir.file("a.ram"), workDir.file("a.stream"), { to: "stream" });
    const identityOf = async (name: string) => {
      const snapshot = await openSnapshot(workDir.file(name));
      try {
        return workingSetIdentity(snapshot);
      } finally {
        snapshot.close();
      }
    };
    const a = await identityOf("a.ram");
    expect(isSameSnapshot(a, await identityOf("copy.ram"))).toBe(true);
    expect(isSameSnapshot(a, await identityOf("a.stream"))).toBe(true);
    expect(isSameSnapshot(a, await identityOf("b.ram"))).toBe(false);
  });

  test("are written whole or not at all, and replaced only when asked to", async () => {
    const path = workingSetPathOf(workDir.file("vm.ram"));
    expect(path).toBe(workDir.file("vm.ram.ws"));
    expect(readWorkingSetIfThere(path)).toBeUndefined();
    const set = record([{ block: 0, firstPage: 1, pageCount: 2 }]);
    await writeWorkingSet(set, path);
    expect(readWorkingSet(path)).toEqual(set);
    await expect(writeWorkingSet(record([]), path)).rejects.toThrow(UsageError);
    await writeWorkingSet(record([]), path, { replace: true });
    expect(readWorkingSetIfThere(path)?.runs).toEqual([]);
    expect(readdirSync(workDir.path)).toEqual(["vm.ram.ws"]);
  });

  test("that are far too large are not read", () => {
    writeFileSync(workDir.file("huge.ws"), "");
    truncateSync(workDir.file("huge.ws"), 2 ** 40);
    expect(() => readWorkingSet(workDir.file("huge.ws"))).toThrow(/too large for a working set/);
  });

  test("add up to numbers", () => {
    const numbers = workingSetNumbers(record([{ block: 2, firstPage: 5, pageCount: 7 }]));
    expect(numbers).toMatchObject({
      pages: 7,
      bytes: 7 * PAGE,
      runs: 1,
      fingerprint: "000102030405060708090a0b0c0d0e0f",
    });
    expect(numbers.blocks.map(({ pages }) => pages)).toEqual([0, 0, 7]);
  });
});
