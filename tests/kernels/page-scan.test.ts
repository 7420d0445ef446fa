import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import zlib from "node:zlib";

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { createPageScanner, type PageScanner, type PageScannerOptions } from "../../src/kernels/index.js";
import { PageScanKernel } from "../../src/kernels/page-scan-kernel.js";
import { PageScanTwin } from "../../src/kernels/page-scan-twin.js";
import { PageBitmap, PageClassifier } from "../../src/memory/index.js";
import { Random } from "../support/random.js";

const PAGE = 4096;
const PAGE_SIZES = [64, 256, 1024, PAGE, 65536] as const;

function kernel(options: PageScannerOptions): PageScanKernel {
  const started = PageScanKernel.start(options);
  if (started === undefined) throw new Error("this Node cannot run the kernel");
  return started;
}

const BOTH: readonly (readonly [string, (options: PageScannerOptions) => PageScanner])[] = [
  ["the kernel", kernel],
  ["the twin", (options) => new PageScanTwin(options)],
];

/** The pages whose bits are set. */
function pagesIn(bits: Uint8Array, count: number): number[] {
  const bitmap = PageBitmap.fromBytes(count, bits);
  expect(bitmap.tailBits()).toBe(0);
  return [...bitmap.runs()].flatMap(({ start, end }) =>
    Array.from({ length: end - start }, (_, index) => start + index),
  );
}

/** Kernel and twin over the same bytes. */
function pair(options: PageScannerOptions, fill: (areas: readonly Uint8Array[]) => void): PageScanner[] {
  return BOTH.map(([, create]) => {
    const scanner = create(options);
    fill(scanner.areas);
    return scanner;
  });
}

/** Pages of some size, of which a few are to get a byte. */
const spots = fc.constantFrom(...PAGE_SIZES).chain((pageSize) =>
  fc.record({
    pageSize: fc.constant(pageSize),
    count: fc.integer({ min: 0, max: pageSize === 65536 ? 9 : 70 }),
    spots: fc.array(
      fc.record({
        page: fc.nat(69),
        // Edges as often as anything else.
        at: fc.oneof(fc.constantFrom(0, 15, 16, 63, pageSize - 64, pageSize - 1), fc.nat(pageSize - 1)),
        // 0x80 as the last byte of a double is -0.0.
        value: fc.constantFrom(1, 0x80, 0xff),
      }),
      { maxLength: 12 },
    ),
  }),
);

describe.each(BOTH)("%s", (_, create) => {
  test("sets the bit of each page that has a byte", () => {
    fc.assert(
      fc.property(spots, ({ pageSize, count, spots }) => {
        const scanner = create({ pageSize, areaPages: 70 });
        const [area] = scanner.areas;
        const expected = new Set<number>();
        for (const { page, at, value } of spots) {
          area!.fill(value, page * pageSize + at, page * pageSize + at + 1);
          if (page < count) expected.add(page);
        }
        const bits = scanner.findContent(0, count);
        expect(bits).toHaveLength(Math.ceil(count / 8));
        expect(pagesIn(bits, count)).toEqual([...expected].sort((a, b) => a - b));
      }),
      { numRuns: 150 },
    );
  });

  test("sets the bit of each page that differs", () => {
    fc.assert(
      fc.property(spots, fc.nat(), ({ pageSize, count, spots }, seed) => {
        const scanner = create({ pageSize, areaPages: 70, areas: 2 });
        const [before, after] = scanner.areas;
        const random = new Random(seed);
        for (let at = 0; at < before!.length; at += 61) before![at] = random.below(256);
        after!.set(before!);
        const expected = new Set<number>();
        const touched = new Set<number>();
        for (const { page, at, value } of spots) {
          const place = page * pageSize + at;
          // Each place once: twice would be back at the start.
          if (touched.has(place)) continue;
          touched.add(place);
          after![place] = after![place]! ^ value;
          if (page < count) expected.add(page);
        }
        expect(pagesIn(scanner.findChanged(count), count)).toEqual([...expected].sort((a, b) => a - b));
      }),
      { numRuns: 150 },
    );
  });

  test("every single byte of a page counts", () => {
    const scanner = create({ pageSize: PAGE, areaPages: 3, areas: 2 });
    const [, second] = scanner.areas;
    for (let at = 0; at < PAGE; at++) {
      second!.fill(0x80, PAGE + at, PAGE + at + 1);
      expect(scanner.findContent(1, 3)[0]).toBe(0b010);
      expect(scanner.findChanged(3)[0]).toBe(0b010);
      second![PAGE + at] = 0;
    }
    expect(scanner.findContent(1, 3)[0]).toBe(0);
  });

  test("-0.0 is content", () => {
    const scanner = create({ pageSize: 64, areaPages: 2 });
    scanner.areas[0]!.set(new Uint8Array(new Float64Array(8).fill(-0).buffer), 64);
    expect(scanner.findContent(0, 2)[0]).toBe(0b10);
  });

  test("bits of earlier scans do not stay", () => {
    const scanner = create({ pageSize: 64, areaPages: 20, areas: 2 });
    scanner.areas[0]!.fill(1);
    expect(pagesIn(scanner.findContent(0, 20), 20)).toHaveLength(20);
    expect(pagesIn(scanner.findChanged(20), 20)).toHaveLength(20);
    scanner.areas[0]!.fill(0);
    expect(pagesIn(scanner.findContent(0, 13), 13)).toEqual([]);
    expect(pagesIn(scanner.findChanged(13), 13)).toEqual([]);
  });

  test("two areas have their own results", () => {
    const scanner = create({ pageSize: 64, areaPages: 4, areas: 2, classes: new PageClassifier(64) });
    scanner.areas[1]!.fill(0x41, 0, 64);
    const first = [scanner.findContent(0, 4), scanner.classify(0, 4), scanner.crc32(0, 0, 4)] as const;
    const second = [scanner.findContent(1, 4), scanner.classify(1, 4), scanner.crc32(1, 0, 4)] as const;
    expect([...first[0], ...second[0]]).toEqual([0, 1]);
    expect([...first[1], ...second[1]]).toEqual([0, 0, 0, 0, 2, 0, 0, 0]);
    expect(first[2][0]).not.toBe(second[2][0]);
  });

  test("an assertion keeps calls inside the areas", () => {
    const scanner = create({ pageSize: 64, areaPages: 4, classes: new PageClassifier(64) });
    const bad = [
      () => scanner.findContent(0, 5),
      () => scanner.findContent(1, 1),
      () => scanner.findChanged(1),
      () => scanner.classify(0, 5),
      () => scanner.xxh64(0, 3, 5, 0n),
      () => scanner.xxh64(0, 3, 2, 0n),
      () => scanner.crc32(0, -1, 2),
      () => create({ pageSize: 64, areaPages: 1 }).classify(0, 1),
      () => create({ pageSize: 96, areaPages: 1 }),
    ];
    for (const call of bad) expect(call).toThrow();
  });

  test("files are read right into an area", () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "ramport-scan-"));
    try {
      const file = path.join(folder, "pages");
      const content = new Uint8Array(3 * PAGE);
      content[2 * PAGE + 77] = 1;
      fs.writeFileSync(file, content);
      const scanner = create({ pageSize: PAGE, areaPages: 4 });
      const fd = fs.openSync(file, "r");
      expect(fs.readSync(fd, scanner.areas[0]!, PAGE, content.length, 0)).toBe(content.length);
      fs.closeSync(fd);
      expect(pagesIn(scanner.findContent(0, 4), 4)).toEqual([3]);
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });

  /** The buffer of xxHash's own tests (`fillTestBuffer` in tests/sanity_test.c). */
  function sanityBuffer(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    let state = 2654435761n;
    for (let index = 0; index < length; index++) {
      bytes[index] = Number(state >> 56n);
      state = BigInt.asUintN(64, state * 11400714785074694797n);
    }
    return bytes;
  }

  // XSUM_XXH64_testdata in tests/sanity_test_vectors.h of xxHash 0.8.2.
  test.each([
    [64, 0n, 0xef558f8acac2b5cdn],
    [128, 0n, 0x90ca021457d96dc5n],
    [512, 0n, 0x4358d2fdd62b58a7n],
    [2048, 0n, 0x5940f2752bc04387n],
    [4160, 0n, 0xeee6a4e2ac952a5en],
    [4160, 0x9e3779b1n, 0xa4cb59e19d6a35f9n],
  ])("XXH64 of %i bytes with seed %s is the published one", (pageSize, seed, expected) => {
    const scanner = create({ pageSize, areaPages: 3 });
    scanner.areas[0]!.set(sanityBuffer(pageSize), 2 * pageSize);
    const hashes = scanner.xxh64(0, 2, 3, seed);
    expect((BigInt(hashes[5]!) << 32n) | BigInt(hashes[4]!)).toBe(expected);
  });

  test("CRC-32 is zlib's", () => {
    const arbitrary = fc.record({
      pageSize: fc.constantFrom(...PAGE_SIZES),
      seed: fc.nat(),
      start: fc.nat(3),
      count: fc.nat(3),
    });
    fc.assert(
      fc.property(arbitrary, ({ pageSize, seed, start, count }) => {
        const scanner = create({ pageSize, areaPages: 6 });
        const random = new Random(seed);
        const [area] = scanner.areas;
        for (let at = 0; at < area!.length; at += 1 + random.below(9)) area![at] = random.below(256);
        const sums = scanner.crc32(0, start, start + count);
        for (let page = start; page < start + count; page++) {
          expect(sums[page]).toBe(zlib.crc32(area!.subarray(page * pageSize, (page + 1) * pageSize)));
        }
      }),
      { numRuns: 60 },
    );
  });
});

describe("kernel and twin", () => {
  const TEXT = [0x09, 0x0a, 0x0d, 0x20, 0x41, 0x61, 0x7e];

  test("hash alike, whatever the seed and the pages", () => {
    const arbitrary = fc.record({
      pageSize: fc.constantFrom(...PAGE_SIZES),
      seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      content: fc.nat(),
      // Largest words: where a carry would be lost.
      full: fc.boolean(),
    });
    fc.assert(
      fc.property(arbitrary, ({ pageSize, seed, content, full }) => {
        const random = new Random(content);
        const pages = new Uint8Array(4 * pageSize);
        for (let at = 0; at < pages.length; at++) {
          pages[at] = full && random.below(4) > 0 ? 0xff : random.below(256);
        }
        const scanners = pair({ pageSize, areaPages: 4 }, ([area]) => area!.set(pages));
        const [one, other] = scanners.map((scanner) => scanner.xxh64(0, 1, 4, seed).slice(2, 8));
        expect(one).toEqual(other);
      }),
      { numRuns: 60 },
    );
  });

  test("class alike: bytes of few values, of text, of all values, and zeros, mixed in any shares", () => {
    const arbitrary = fc.record({
      pageSize: fc.constantFrom(...PAGE_SIZES),
      seed: fc.nat(),
      zeros: fc.integer({ min: 0, max: 100 }),
      texts: fc.integer({ min: 0, max: 100 }),
      values: fc.constantFrom(1, 2, 16, 100, 150, 180, 256),
    });
    const seen = new Set<number>();
    fc.assert(
      fc.property(arbitrary, ({ pageSize, seed, zeros, texts, values }) => {
        const random = new Random(seed);
        const pages = new Uint8Array(3 * pageSize);
        for (let at = 0; at < pages.length; at++) {
          if (random.below(100) < zeros) continue;
          pages[at] = random.below(100) < texts ? random.pick(TEXT) : random.below(values);
        }
        const scanners = pair({ pageSize, areaPages: 3, classes: new PageClassifier(pageSize) }, ([area]) =>
          area!.set(pages),
        );
        const [one, other] = scanners.map((scanner) => [...scanner.classify(0, 3)]);
        expect(one).toEqual(other);
        for (const index of other!) seen.add(index);
      }),
      { numRuns: 300 },
    );
    expect([...seen].sort()).toEqual([0, 1, 2, 3, 4]);
  });

  test("class alike at the very edges, byte by byte", () => {
    const classes = new PageClassifier(PAGE);
    const scanners = pair({ pageSize: PAGE, areaPages: 256, classes }, ([area]) => {
      for (let page = 0; page < 256; page++) {
        const start = page * PAGE;
        // Every value alone in just too much for a sparse page: text or not.
        area!.fill(page, start, start + 300);
        // Around the share of text: 85 % of 1000 bytes.
        area!.fill(0x41, start + 300, start + 300 + 700 + 845 + (page % 12));
        area!.fill(0x80 + (page % 7), start + 3000, start + 3150);
      }
    });
    const [one, other] = scanners.map((scanner) => [...scanner.classify(0, 256)]);
    expect(one).toEqual(other);
    expect(new Set(other).size).toBeGreaterThan(1);
  });

  test.each([
    [400, 339, 3],
    [400, 340, 2],
    [256, 0, 1],
    [257, 0, 3],
    [0, 0, 0],
    [1, 0, 1],
  ])("of %i bytes that are not zero, %i of them text: class %i", (used, texts, expected) => {
    for (const scanner of pair(
      { pageSize: PAGE, areaPages: 1, classes: new PageClassifier(PAGE) },
      ([area]) => area!.fill(0x80, 50, 50 + used).fill(0x7e, 50, 50 + texts),
    )) {
      expect([...scanner.classify(0, 1)]).toEqual([expected]);
    }
  });

  test("a page with just the least entropy is dense", () => {
    // All values equally often: 8 bits, with nothing rounded.
    const { sparseBytes, textShare, weights } = new PageClassifier(PAGE);
    for (const [denseBits, expected] of [
      [8, 4],
      [8 + 1e-12, 3],
    ] as const) {
      const classes = { sparseBytes, textShare, weights, denseBits, classIndex: () => 0 };
      const scanner = kernel({ pageSize: PAGE, areaPages: 1, classes });
      scanner.areas[0]!.set(Uint8Array.from({ length: PAGE }, (_, index) => index));
      expect([...scanner.classify(0, 1)]).toEqual([expected]);
    }
  });

  test("class alike around the least entropy of a dense page", () => {
    const classes = new PageClassifier(PAGE);
    const answers = new Set<number>();
    const scanners = pair({ pageSize: PAGE, areaPages: 200, classes }, ([area]) => {
      const random = new Random(3);
      // 2^7.2 is 147: as many values, evenly, are on the edge.
      for (let page = 0; page < 200; page++) {
        const values = 130 + (page % 40);
        for (let at = 0; at < PAGE; at++) area![page * PAGE + at] = 110 + random.below(values);
      }
    });
    const [one, other] = scanners.map((scanner) => [...scanner.classify(0, 200)]);
    expect(one).toEqual(other);
    for (const index of other!) answers.add(index);
    expect(answers).toEqual(new Set([3, 4]));
  });
});

test("areas begin where O_DIRECT can write to, and are zero", () => {
  const scanner = createPageScanner({ pageSize: 1024, areaPages: 67, areas: 3 });
  expect(scanner.constructor.name).toBe("PageScanKernel");
  for (const area of scanner.areas) {
    expect(area.byteOffset % 65536).toBe(0);
    expect(area).toHaveLength(67 * 1024);
    expect(area.every((byte) => byte === 0)).toBe(true);
  }
});
