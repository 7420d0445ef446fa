import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { XbzrleCache } from "../../../src/engine/outgoing/xbzrle-cache.js";
import { createXbzrlePages, PlainXbzrlePages } from "../../../src/engine/outgoing/xbzrle-pages.js";
import { applyXbzrle } from "../../../src/wire/index.js";

const PAGE = 1024;
const BLOCK_PAGES = [12, 5];

function page(seed: number): Uint8Array {
  return Uint8Array.from({ length: PAGE }, (_, index) => (index * 31 + seed * 17) & 0xff);
}

function at(content: Uint8Array, changes: Readonly<Record<number, number>>): Uint8Array {
  const changed = content.slice();
  for (const [index, value] of Object.entries(changes)) changed[Number(index)] = value;
  return changed;
}

const place = fc
  .integer({ min: 0, max: BLOCK_PAGES.length - 1 })
  .chain((block) => fc.record({ block: fc.constant(block), page: fc.nat(BLOCK_PAGES[block]! - 1) }));
const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("write" as const),
      place,
      at: fc.nat(PAGE - 1),
      length: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: PAGE })),
      // Few values: bytes change back, and what is beside them looks alike.
      value: fc.nat(2),
      stride: fc.integer({ min: 1, max: 3 }),
    }),
  },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant("send" as const), place, whole: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("zero" as const), place }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("round" as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("resize" as const),
      pages: fc.constantFrom(1, 2, 8, 16, 64),
    }),
  },
);

describe("XbzrleCache", () => {
  test("a receiver that does what it is told has the guest's pages", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300, size: "max" }), fc.nat(3), (steps, shift) => {
        // Pages that do not begin on a word are seldom, and must be right all the same.
        const buffers = BLOCK_PAGES.map((pages) => new Uint8Array(pages * PAGE + shift));
        const guest = buffers.map((buffer) => buffer.subarray(shift));
        const receiver = BLOCK_PAGES.map((pages) => new Uint8Array(pages * PAGE));
        const cache = new XbzrleCache(8 * PAGE, PAGE);
        let round = 1;
        // The first round: everything goes whole, and the cache is not told.
        for (const [block, memory] of guest.entries()) receiver[block]!.set(memory);
        for (const one of steps) {
          if (one.kind === "round") round += 1;
          else if (one.kind === "resize") cache.resize(one.pages * PAGE);
          else {
            const { block } = one.place;
            const address = one.place.page * PAGE;
            const live = guest[block]!.subarray(address, address + PAGE);
            const there = receiver[block]!.subarray(address, address + PAGE);
            if (one.kind === "write") {
              for (let index = 0; index < one.length; index += one.stride) {
                live[(one.at + index) % PAGE] = one.value;
              }
            } else if (one.kind === "zero") {
              live.fill(0);
              there.fill(0);
              cache.storeZero(block, address);
            } else {
              const result = one.whole
                ? cache.encode(block, address, buffers[block]!, address + shift, round)
                : cache.encode(block, address, guest[block]!, address, round);
              if (result.kind === "hit") applyXbzrle(there, cache.encoded.subarray(0, result.length));
              else if (result.kind !== "same") there.set(live);
              expect(Buffer.compare(there, live)).toBe(0);
            }
          }
        }
      }),
      { numRuns: 200 },
    );
  });

  test("miss, hit, same, overflow, and what they count", () => {
    const cache = new XbzrleCache(4 * PAGE, PAGE);
    const first = page(1);
    expect(cache.encode(0, 0, first, 0, 2)).toEqual({ kind: "miss" });
    const second = at(first, { 5: 0, 6: 0 });
    expect(cache.encode(0, 0, second, 0, 3)).toEqual({ kind: "hit", length: 4 });
    expect([...cache.encoded.subarray(0, 4)]).toEqual([5, 2, 0, 0]);
    expect(cache.encode(0, 0, second, 0, 3)).toEqual({ kind: "same" });
    expect(cache.encode(0, 0, page(2), 0, 3)).toEqual({ kind: "overflow" });
    // The overflow is what the receiver has now.
    expect(cache.encode(0, 0, page(2), 0, 3)).toEqual({ kind: "same" });
    expect(cache.stats).toEqual({
      "cache-size": 4 * PAGE,
      // Encoding byte, length and delta; a whole page for the overflow.
      bytes: 3 + 4 + PAGE,
      pages: 4,
      "cache-miss": 1,
      "cache-miss-rate": 1,
      "encoding-rate": 0,
      overflow: 1,
    });
  });

  test("rates are those of the last whole round", () => {
    const cache = new XbzrleCache(4 * PAGE, PAGE);
    const content = page(1);
    cache.encode(0, 0, content, 0, 2);
    cache.storeZero(0, PAGE);
    cache.encode(0, 0, at(content, { 0: 1 }), 0, 3);
    expect(cache.stats).toMatchObject({ "cache-miss-rate": 0.5, "encoding-rate": 0 });
    cache.encode(0, 0, at(content, { 0: 2 }), 0, 4);
    // One page as a record of three bytes and a delta of three.
    expect(cache.stats).toMatchObject({ "cache-miss-rate": 0, "encoding-rate": PAGE / 6 });
  });

  test("a page keeps its slot for two rounds after its last use", () => {
    const cache = new XbzrleCache(PAGE, PAGE);
    const content = page(1);
    const uses = (address: number, round: number): string => cache.encode(0, address, content, 0, round).kind;
    expect(uses(0, 2)).toBe("miss");
    expect(uses(PAGE, 2)).toBe("miss");
    expect(uses(PAGE, 3)).toBe("miss");
    expect(uses(0, 3)).toBe("same");
    expect(uses(PAGE, 4)).toBe("miss");
    expect(uses(0, 4)).toBe("same");
    expect(uses(PAGE, 6)).toBe("miss");
    expect(uses(PAGE, 6)).toBe("same");
    expect(uses(0, 6)).toBe("miss");
  });

  test("pages of two blocks with one address are two pages", () => {
    const cache = new XbzrleCache(PAGE, PAGE);
    expect(cache.encode(0, 0, page(1), 0, 2).kind).toBe("miss");
    expect(cache.encode(1, 0, page(1), 0, 2).kind).toBe("miss");
    expect(cache.encode(0, 0, page(1), 0, 2).kind).toBe("same");
  });

  test("a page that went as a zero page is one in the cache", () => {
    const cache = new XbzrleCache(4 * PAGE, PAGE);
    cache.encode(0, 0, page(1), 0, 2);
    cache.storeZero(0, 0);
    expect(cache.encode(0, 0, at(new Uint8Array(PAGE), { 9: 1 }), 0, 2)).toEqual({ kind: "hit", length: 3 });
  });

  test("zero pages of the first round are not cached: a whole page that follows them is not told", () => {
    const cache = new XbzrleCache(4 * PAGE, PAGE);
    cache.storeZero(0, 0);
    expect(cache.encode(0, 0, new Uint8Array(PAGE), 0, 2).kind).toBe("miss");
  });

  test("a buffer that is used again is read again", () => {
    const cache = new XbzrleCache(4 * PAGE, PAGE);
    for (const shift of [0, 1]) {
      const buffer = new Uint8Array(PAGE + shift).subarray(shift);
      buffer.set(page(3));
      const address = shift * PAGE;
      cache.encode(0, address, buffer, 0, 2);
      expect(cache.encode(0, address, buffer, 0, 2).kind).toBe("same");
      buffer[100] = 0;
      buffer[101] = 0;
      expect(cache.encode(0, address, buffer, 0, 2)).toEqual({ kind: "hit", length: 4 });
    }
  });

  test("another size forgets, the same size does not", () => {
    const cache = new XbzrleCache(4 * PAGE, PAGE);
    cache.encode(0, 0, page(1), 0, 2);
    cache.resize(4 * PAGE);
    expect(cache.encode(0, 0, page(1), 0, 2).kind).toBe("same");
    cache.resize(8 * PAGE);
    expect(cache.stats["cache-size"]).toBe(8 * PAGE);
    expect(cache.encode(0, 0, page(1), 0, 2).kind).toBe("miss");
  });

  test.each([0, PAGE - 1, PAGE / 2, 3 * PAGE, 4 * PAGE + 1, Number.NaN, Infinity, 2 ** 52])(
    "refuses a size of %d bytes, and stays as it is",
    (bytes) => {
      expect(() => new XbzrleCache(bytes, PAGE)).toThrow(expect.objectContaining({ code: "usage" }));
      const cache = new XbzrleCache(4 * PAGE, PAGE);
      cache.encode(0, 0, page(1), 0, 2);
      expect(() => cache.resize(bytes)).toThrow(expect.objectContaining({ code: "usage" }));
      expect(cache.encode(0, 0, page(1), 0, 2).kind).toBe("same");
    },
  );

  test("more than one segment", () => {
    const cache = new XbzrleCache(2 ** 31, PAGE);
    const last = 2 ** 31 - PAGE;
    for (const address of [0, 2 ** 30 - PAGE, 2 ** 30, last]) {
      cache.encode(0, address, page(address / PAGE), 0, 2);
    }
    for (const address of [0, 2 ** 30 - PAGE, 2 ** 30, last]) {
      expect(cache.encode(0, address, page(address / PAGE), 0, 2).kind).toBe("same");
    }
  });
});

describe("PlainXbzrlePages", () => {
  test("does what the kernel does, wherever a page begins", () => {
    const step = fc.record({
      page: fc.nat(2),
      kind: fc.constantFrom("update", "update", "update", "store", "clear"),
      at: fc.nat(PAGE - 1),
      length: fc.integer({ min: 1, max: PAGE }),
      value: fc.nat(2),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.nat(3), (steps, shift) => {
        const buffer = new Uint8Array(2 * PAGE + shift);
        const stores = [createXbzrlePages(PAGE, 3), new PlainXbzrlePages(PAGE, 3)] as const;
        expect(stores[0]).not.toBeInstanceOf(PlainXbzrlePages);
        for (const { page, kind, at, length, value } of steps) {
          buffer.fill(value, PAGE + at, PAGE + at + length);
          const [fast, plain] = stores.map((pages) => {
            if (kind === "clear") pages.clear(page);
            else if (kind === "store") pages.store(page, buffer, PAGE + shift);
            else {
              const deltaLength = pages.update(page, buffer, PAGE + shift);
              return { deltaLength, delta: pages.delta.slice(0, Math.max(0, deltaLength)) };
            }
            return undefined;
          });
          expect(fast).toEqual(plain);
        }
      }),
      { numRuns: 200 },
    );
  });
});
