import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { XbzrleKernel } from "../../src/kernels/index.js";
import { applyXbzrle, encodeXbzrle } from "../../src/wire/index.js";
import { Random } from "../support/random.js";

function start(pageSize: number, count: number): XbzrleKernel {
  const kernel = XbzrleKernel.start(pageSize, count);
  if (kernel === undefined) throw new Error("this Node cannot run the kernel");
  return kernel;
}

/** The delta that `encodeXbzrle` makes of two pages, or -1. */
function expected(before: Uint8Array, after: Uint8Array, limit: number): Uint8Array | -1 {
  const out = new Uint8Array(limit);
  const length = encodeXbzrle(before, after, out, 0, limit);
  return length === -1 ? -1 : out.slice(0, length);
}

function update(kernel: XbzrleKernel, page: number, after: Uint8Array, limit: number): Uint8Array | -1 {
  kernel.fresh.set(after);
  const length = kernel.update(page, limit);
  return length === -1 ? -1 : kernel.delta.slice(0, length);
}

/** Changes to a page of some size: runs wherever they like, ends of the page and of vectors more often than not. */
const changes = fc.constantFrom(64, 256, 1024, 4096, 65536).chain((pageSize) =>
  fc.record({
    pageSize: fc.constant(pageSize),
    edits: fc.array(
      fc.record({
        at: fc.oneof(
          fc.constantFrom(0, 1, 15, 16, 17, 63, pageSize - 17, pageSize - 1),
          fc.nat(pageSize - 1),
        ),
        length: fc.oneof(
          fc.constantFrom(1, 15, 16, 17, 127, 128, 129, 0x3fff, 0x4000),
          fc.integer({ min: 1, max: 300 }),
        ),
        value: fc.nat(2),
        stride: fc.integer({ min: 1, max: 3 }),
      }),
      { maxLength: 12 },
    ),
    seed: fc.nat(),
    // A page as long as the page, or shorter than some deltas.
    limit: fc.oneof(fc.constant(pageSize), fc.nat(Math.min(400, pageSize))),
  }),
);

describe("the xbzrle kernel", () => {
  test("makes the deltas of its twin, which the receiver undoes, and keeps the page", () => {
    let [fits, same, over] = [0, 0, 0];
    fc.assert(
      fc.property(changes, ({ pageSize, edits, seed, limit }) => {
        const kernel = start(pageSize, 3);
        const random = new Random(seed);
        // What lies behind a page must not count, differ or not: there are zeros behind the fresh one.
        const neighbour = Uint8Array.from({ length: pageSize }, (_, index) => (index % 2 === 0 ? 0xa0 : 0));
        for (const page of [0, 2]) {
          kernel.fresh.set(neighbour);
          kernel.store(page);
        }
        const before = Uint8Array.from({ length: pageSize }, () => random.below(3));
        kernel.fresh.set(before);
        kernel.store(1);
        const after = before.slice();
        for (const { at, length, value, stride } of edits) {
          for (let index = at; index < Math.min(pageSize, at + length); index += stride) after[index] = value;
        }
        const delta = expected(before, after, limit);
        expect(update(kernel, 1, after, limit)).toEqual(delta);
        if (delta === -1) over += 1;
        else {
          if (delta.length === 0) same += 1;
          else fits += 1;
          applyXbzrle(before, delta);
          expect(Buffer.compare(before, after)).toBe(0);
        }
        // It is what the receiver has now; its neighbours are as they were.
        expect(update(kernel, 1, after, limit)).toEqual(new Uint8Array());
        for (const page of [0, 2]) expect(update(kernel, page, neighbour, limit)).toEqual(new Uint8Array());
      }),
      { numRuns: 600 },
    );
    for (const count of [fits, same, over]) expect(count).toBeGreaterThan(20);
  });

  test("every single byte of a page", () => {
    const kernel = start(4096, 2);
    const page = new Uint8Array(4096);
    for (let at = 0; at < page.length; at++) {
      kernel.clear(0);
      page[at] = 0x80;
      expect(update(kernel, 0, page, 4096)).toEqual(expected(new Uint8Array(4096), page, 4096));
      page[at] = 0;
    }
  });

  test.each([
    [1, 1],
    [127, 127],
    [128, 127],
    [127, 128],
    [128, 128],
    [300, 300],
  ])("%i bytes that are the same and %i that are not fit exactly, or not at all", (same, changed) => {
    const before = new Uint8Array(1024);
    const after = before.slice().fill(1, same, same + changed);
    const { length } = expected(before, after, 1024) as Uint8Array;
    expect(expected(before, after, length - 1)).toBe(-1);
    for (const limit of [0, length - 1, length, length + 1]) {
      const kernel = start(1024, 1);
      expect(update(kernel, 0, after, limit)).toEqual(expected(before, after, limit));
    }
  });

  test("runs of 16 KiB are refused, those of a byte less are not", () => {
    for (const run of [0x3fff, 0x4000]) {
      for (const [from, end] of [
        [run, run + 1],
        [0, run],
        [0x8000, 0x8000 + run],
      ] as const) {
        const before = new Uint8Array(65536).fill(1, 0x6000, 0x6001);
        const after = before.slice().fill(2, from, end).fill(3, 0x6000, 0x6001);
        const kernel = start(65536, 1);
        update(kernel, 0, before, 65535);
        expect(update(kernel, 0, after, 65535)).toEqual(expected(before, after, 65535));
      }
    }
    const long = new Uint8Array(65536).fill(2, 0, 0x4000);
    expect(update(start(65536, 1), 0, long, 65535)).toBe(-1);
    expect(update(start(65536, 1), 0, long.fill(0, 0x3fff), 65535)).toHaveLength(3 + 0x3fff);
  });

  test("a page that does not fit is kept all the same", () => {
    const kernel = start(256, 1);
    const page = new Uint8Array(256).fill(9);
    expect(update(kernel, 0, page, 256)).toBe(-1);
    expect(update(kernel, 0, page, 256)).toEqual(new Uint8Array());
  });

  test("what lies behind a delta and behind the fresh page does not leak in", () => {
    const kernel = start(64, 2);
    // A long delta, then a short one in its place.
    update(kernel, 0, new Uint8Array(64).fill(7, 0, 50), 64);
    expect(update(kernel, 0, new Uint8Array(64).fill(7, 0, 50).fill(1, 63), 64)).toEqual(
      Uint8Array.of(63, 1, 1),
    );
  });

  test("pages that were cleared are zero", () => {
    const kernel = start(4096, 4);
    kernel.fresh.fill(5);
    for (let page = 0; page < 4; page++) kernel.store(page);
    kernel.clear(2);
    expect(update(kernel, 2, new Uint8Array(4096), 4096)).toEqual(new Uint8Array());
    for (const page of [0, 1, 3]) {
      expect(update(kernel, page, new Uint8Array(4096).fill(5), 4096)).toEqual(new Uint8Array());
    }
  });

  test("assertions keep it inside its memory", () => {
    const kernel = start(4096, 4);
    for (const page of [-1, 4]) {
      expect(() => kernel.update(page, 4096)).toThrow(`page ${page} of 4`);
      expect(() => kernel.store(page)).toThrow();
      expect(() => kernel.clear(page)).toThrow();
    }
    expect(() => kernel.update(0, 4097)).toThrow("4097");
    expect(() => start(100, 1)).toThrow("100");
  });

  test("pages of nearly 4 GiB, where the system gives memory when it is written", () => {
    const count = 2 ** 20 - 16;
    const kernel = start(4096, count);
    const page = new Uint8Array(4096).fill(3, 4095);
    expect(update(kernel, count - 1, page, 4096)).toEqual(Uint8Array.of(0xff, 0x1f, 1, 3));
    expect(update(kernel, count - 1, page, 4096)).toEqual(new Uint8Array());
    expect(update(kernel, 0, page, 4096)).toEqual(Uint8Array.of(0xff, 0x1f, 1, 3));
  });
});
