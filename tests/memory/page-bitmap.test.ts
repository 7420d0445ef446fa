import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { PageBitmap } from "../../src/memory/index.js";

/** What the bitmap is compared with: a plain set of page numbers. */
class NaiveBitmap {
  readonly pages = new Set<number>();
  readonly pageCount: number;

  constructor(pageCount: number) {
    this.pageCount = pageCount;
  }

  next(from: number, set: boolean): number {
    for (let page = from; page < this.pageCount; page++) if (this.pages.has(page) === set) return page;
    return this.pageCount;
  }

  runs(set: boolean): { start: number; end: number }[] {
    const runs: { start: number; end: number }[] = [];
    for (let start = this.next(0, set); start < this.pageCount;) {
      const end = this.next(start, !set);
      runs.push({ start, end });
      start = this.next(end, set);
    }
    return runs;
  }
}

type Step =
  | { readonly kind: "set" | "clear"; readonly page: number }
  | {
      readonly kind: "setRange" | "clearRange";
      readonly start: number;
      readonly length: number;
    };

const model = fc
  .record({
    pageCount: fc.integer({ min: 1, max: 300 }),
    steps: fc.array(
      fc.oneof(
        fc.record({ kind: fc.constantFrom("set", "clear"), page: fc.nat(299) }),
        fc.record({
          kind: fc.constantFrom("setRange", "clearRange"),
          start: fc.nat(299),
          length: fc.nat(200),
        }),
      ),
      { maxLength: 40 },
    ),
  })
  .map(({ pageCount, steps }) => run(pageCount, steps));

function run(pageCount: number, steps: readonly Step[]): { bitmap: PageBitmap; naive: NaiveBitmap } {
  const bitmap = new PageBitmap(pageCount);
  const naive = new NaiveBitmap(pageCount);
  for (const step of steps) {
    if ("start" in step) {
      const start = step.start % pageCount;
      const end = Math.min(pageCount, start + step.length);
      bitmap[step.kind](start, end);
      for (let page = start; page < end; page++) {
        if (step.kind === "setRange") naive.pages.add(page);
        else naive.pages.delete(page);
      }
    } else {
      const page = step.page % pageCount;
      bitmap[step.kind](page);
      if (step.kind === "set") naive.pages.add(page);
      else naive.pages.delete(page);
    }
  }
  return { bitmap, naive };
}

describe("PageBitmap is a set of pages", () => {
  test("has, count, next and runs", () => {
    fc.assert(
      fc.property(model, fc.nat(320), fc.nat(320), ({ bitmap, naive }, from, length) => {
        expect(bitmap.count()).toBe(naive.pages.size);
        expect(bitmap.tailBits()).toBe(0);
        for (let page = 0; page < naive.pageCount; page++)
          expect(bitmap.has(page)).toBe(naive.pages.has(page));
        expect(bitmap.nextSet(from)).toBe(naive.next(from, true));
        expect(bitmap.nextClear(from)).toBe(naive.next(from, false));
        const until = from + length;
        expect(bitmap.nextSet(from, until)).toBe(Math.min(until, naive.next(from, true)));
        expect(bitmap.nextClear(from, until)).toBe(Math.min(until, naive.next(from, false)));
        expect([...bitmap.runs()]).toEqual(naive.runs(true));
        expect([...bitmap.clearRuns()]).toEqual(naive.runs(false));
      }),
    );
  });

  test("the file's bytes have bit i at bit i mod 8 of byte i / 8, in whole 64-bit words", () => {
    fc.assert(
      fc.property(model, ({ bitmap, naive }) => {
        const bytes = bitmap.toBytes();
        expect(bytes.length).toBe(Math.ceil(naive.pageCount / 64) * 8);
        for (let page = 0; page < bytes.length * 8; page++) {
          expect(((bytes[page >> 3]! >> (page & 7)) & 1) === 1).toBe(naive.pages.has(page));
        }
        const again = PageBitmap.fromBytes(naive.pageCount, bytes);
        expect([...again.runs()]).toEqual(naive.runs(true));
      }),
    );
  });

  test("without", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(199)), fc.array(fc.nat(199)), (left, right) => {
        const make = (pages: readonly number[]): PageBitmap =>
          run(
            200,
            pages.map((page) => ({ kind: "set", page })),
          ).bitmap;
        const expected = new Set(left.filter((page) => !right.includes(page)));
        const difference = make(left).without(make(right));
        expect(difference.count()).toBe(expected.size);
        for (const page of expected) expect(difference.has(page)).toBe(true);
      }),
    );
  });

  test("bits past the last page are counted apart", () => {
    const bytes = new Uint8Array(16).fill(0xff);
    const bitmap = PageBitmap.fromBytes(70, bytes);
    expect(bitmap.count()).toBe(70);
    expect(bitmap.tailBits()).toBe(58);
    expect([...bitmap.runs()]).toEqual([{ start: 0, end: 70 }]);
    expect(bitmap.nextClear(0)).toBe(70);
  });

  test.each([
    [0, 0],
    [0, 130],
    [31, 33],
    [32, 64],
    [33, 95],
    [5, 5],
    [129, 130],
  ])("clearRange from %i to %i clears these and no others", (start, end) => {
    const bitmap = new PageBitmap(130);
    bitmap.setRange(0, 130);
    bitmap.clearRange(start, end);
    const expected = Array.from({ length: 130 }, (_, page) => page < start || page >= end);
    expect(expected.map((_, page) => bitmap.has(page))).toEqual(expected);
    expect(bitmap.count()).toBe(130 - (end - start));
  });

  test("an empty bitmap", () => {
    const bitmap = new PageBitmap(0);
    expect(bitmap.count()).toBe(0);
    expect(bitmap.toBytes().length).toBe(0);
    expect([...bitmap.runs(), ...bitmap.clearRuns()]).toEqual([]);
  });
});
