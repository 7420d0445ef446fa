import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { DirtyPages } from "../../../src/engine/outgoing/dirty-pages.js";

function takenAll(pages: DirtyPages, most: number): string[] {
  const taken: string[] = [];
  for (let run = pages.take(most); run !== undefined; run = pages.take(most)) {
    taken.push(`${run.block}:${run.start}-${run.end}`);
  }
  return taken;
}

describe("DirtyPages", () => {
  test("gives all pages once, in order, in runs of at most so many", () => {
    const pages = new DirtyPages([5, 0, 3]);
    pages.setAll();
    expect(pages.remaining).toBe(8);
    expect(takenAll(pages, 2)).toEqual(["0:0-2", "0:2-4", "0:4-5", "2:0-2", "2:2-3"]);
    expect(pages.remaining).toBe(0);
  });

  test("goes on behind the last run, and comes around to what is before it", () => {
    const pages = new DirtyPages([10, 4]);
    pages.setAll();
    pages.take(6);
    pages.bitmaps[0]?.setRange(1, 3);
    expect(pages.recount()).toBe(2);
    expect(takenAll(pages, 100)).toEqual(["0:6-10", "1:0-4", "0:1-3"]);
  });

  test("finds what is dirty in the only block before the place it is at", () => {
    const pages = new DirtyPages([10]);
    pages.setAll();
    pages.take(10);
    pages.bitmaps[0]?.set(0);
    pages.recount();
    expect(takenAll(pages, 100)).toEqual(["0:0-1"]);
  });

  test("recount says how many pages are new", () => {
    const pages = new DirtyPages([100]);
    expect(pages.recount()).toBe(0);
    pages.bitmaps[0]?.setRange(10, 20);
    expect(pages.recount()).toBe(10);
    pages.bitmaps[0]?.setRange(15, 25);
    expect(pages.recount()).toBe(5);
    expect(pages.remaining).toBe(15);
  });

  test("no blocks, and blocks without pages", () => {
    for (const pages of [new DirtyPages([]), new DirtyPages([0, 0])]) {
      pages.setAll();
      expect(pages.take(1)).toBeUndefined();
    }
  });

  test("whatever is set is taken exactly once, and nothing else", () => {
    const counts = fc.array(fc.nat(150), { minLength: 1, maxLength: 4 });
    const set = fc.array(fc.tuple(fc.nat(3), fc.nat(149)), { maxLength: 60 });
    fc.assert(
      fc.property(counts, set, fc.integer({ min: 1, max: 40 }), fc.nat(20), (blocks, dirty, most, skip) => {
        const pages = new DirtyPages(blocks);
        pages.setAll();
        for (let step = 0; step < skip; step++) pages.take(most);
        const expected = new Set<string>();
        for (const [index, bitmap] of pages.bitmaps.entries()) {
          for (const [block, page] of dirty) if (block === index && page < bitmap.pageCount) bitmap.set(page);
          for (let page = 0; page < bitmap.pageCount; page++)
            if (bitmap.has(page)) expected.add(`${index}:${page}`);
        }
        pages.recount();
        expect(pages.remaining).toBe(expected.size);
        for (let run = pages.take(most); run !== undefined; run = pages.take(most)) {
          expect(run.end - run.start).toBeLessThanOrEqual(most);
          for (let page = run.start; page < run.end; page++)
            expect(expected.delete(`${run.block}:${page}`)).toBe(true);
        }
        expect(expected.size).toBe(0);
        expect(pages.remaining).toBe(0);
      }),
    );
  });
});
