import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { createPageHasher, type PageHasher } from "../../src/kernels/index.js";
import { pageHashKeyWords, randomPageHashKey } from "../../src/kernels/page-hash-key.js";
import { PageHashKernel } from "../../src/kernels/page-hash-kernel.js";
import { PageHashTwin } from "../../src/kernels/page-hash-twin.js";
import { Random } from "../support/random.js";

const PAGE = 4096;

function kernel(pageSize: number, key: Uint32Array, pages: number): PageHashKernel {
  const started = PageHashKernel.start(pageSize, key, pages * pageSize);
  if (started === undefined) throw new Error("this Node cannot run the kernel");
  return started;
}

/** Hashes of whole pages as text, which sets and maps can compare. */
function hashes(hasher: PageHasher, bytes: Uint8Array, pageSize = PAGE): string[] {
  hasher.hash(bytes);
  return Array.from({ length: bytes.length / pageSize }, (_, page) =>
    hasher.hashes.slice(page * 4, page * 4 + 4).join("-"),
  );
}

/** The definition in page-hash-key.ts, with integers of any size: slow, and nothing to get wrong. */
function definition(page: Uint8Array, key: Uint32Array): string {
  const words = new Uint32Array(page.slice().buffer);
  const mask32 = 0xffff_ffffn;
  const mask64 = 0xffff_ffff_ffff_ffffn;
  const halves: bigint[] = [];
  for (let pass = 0; pass < 4; pass++) {
    let sum = 0n;
    for (let at = 0; at < words.length; at += 8) {
      for (let lane = at; lane < at + 4; lane++) {
        const left = (BigInt(words[lane]!) + BigInt(key[lane + 8 * pass]!)) & mask32;
        const right = (BigInt(words[lane + 4]!) + BigInt(key[lane + 4 + 8 * pass]!)) & mask32;
        sum = (sum + left * right) & mask64;
      }
    }
    halves.push(sum & mask32, sum >> 32n);
  }
  const rows = Array.from({ length: 36 }, (_, index) => {
    const at = words.length + 24 + 2 * index;
    return BigInt(key[at]!) | (BigInt(key[at + 1]!) << 32n);
  });
  const result = [0, 9, 18, 27].map((row) => {
    const sum = halves.reduce((total, half, index) => total + rows[row + 1 + index]! * half, rows[row]!);
    return (sum & mask64) >> 32n;
  });
  return result.join("-");
}

const words = (length: number) => fc.uint32Array({ minLength: length, maxLength: length });

describe("the page hash", () => {
  test("kernel and twin are the definition, for every page size and number of pages", () => {
    const run = fc.constantFrom(32, 64, 1024, PAGE, 65536).chain((pageSize) =>
      fc.record({
        pageSize: fc.constant(pageSize),
        seed: fc.nat(),
        count: fc.integer({ min: 1, max: 5 }),
        // Runs of the largest words: where a carry would be lost.
        full: fc.boolean(),
      }),
    );
    fc.assert(
      fc.property(run, ({ pageSize, seed, count, full }) => {
        const random = new Random(seed);
        const next = (): number => (full && random.below(4) > 0 ? 0xffff_ffff : random.below(2 ** 32));
        const key = Uint32Array.from({ length: pageHashKeyWords(pageSize) }, next);
        const pages = new Uint8Array(Uint32Array.from({ length: (count * pageSize) / 4 }, next).buffer);
        const twin = hashes(new PageHashTwin(pageSize, key, 5 * pageSize), pages, pageSize);
        expect(hashes(kernel(pageSize, key, 5), pages, pageSize)).toEqual(twin);
        expect(twin[count - 1]).toBe(definition(pages.subarray((count - 1) * pageSize), key));
      }),
      { numRuns: 40 },
    );
  });

  test("a page has one hash wherever it is, and whatever was hashed before", () => {
    const hasher = createPageHasher(PAGE);
    fc.assert(
      fc.property(words(PAGE / 4), fc.nat(7), fc.nat(200), (content, place, offset) => {
        const page = new Uint8Array(content.buffer);
        const many = new Uint8Array(8 * PAGE + offset).subarray(offset);
        many.set(page, place * PAGE);
        expect(hashes(hasher, many)[place]).toBe(hashes(hasher, page)[0]);
      }),
    );
  });

  test("the staging holds what was hashed", () => {
    const hasher = createPageHasher(PAGE);
    const pages = Uint8Array.from({ length: 3 * PAGE }, (_, index) => index * 7);
    hasher.hash(pages);
    expect(Buffer.compare(hasher.staging.subarray(0, pages.length), pages)).toBe(0);
  });

  test("no pages are no work", () => {
    const hasher = createPageHasher(PAGE);
    hasher.hash(new Uint8Array(PAGE));
    const before = hasher.hashes.slice();
    hasher.hash(new Uint8Array(0));
    expect(hasher.hashes).toEqual(before);
  });

  test("each hasher has another key", () => {
    const page = new Uint8Array(PAGE).fill(3);
    const seen = new Set(Array.from({ length: 50 }, () => hashes(createPageHasher(PAGE), page)[0]));
    expect(seen.size).toBe(50);
  });
});

describe("its quality", () => {
  const key = randomPageHashKey(PAGE);
  const base = new Random(11);
  const content = Uint32Array.from({ length: PAGE / 4 }, () => base.below(2 ** 32));
  const hasher = kernel(PAGE, key, 64);

  /** Hashes of a page and of what `change` makes of it, for each of `count` changes. */
  function distinct(
    page: Uint32Array,
    count: number,
    change: (words: Uint32Array, index: number) => void,
  ): number {
    const seen = new Set(hashes(hasher, new Uint8Array(page.buffer)));
    for (let index = 0; index < count; index++) {
      const changed = page.slice();
      change(changed, index);
      seen.add(hashes(hasher, new Uint8Array(changed.buffer))[0]!);
    }
    return seen.size;
  }

  function flip(words: Uint32Array, bit: number): void {
    words[bit >>> 5] = words[bit >>> 5]! ^ (1 << (bit & 31));
  }

  test.each([
    ["random page", content],
    ["zero page", new Uint32Array(PAGE / 4)],
    ["page of ones", new Uint32Array(PAGE / 4).fill(0xffff_ffff)],
  ])("every flipped bit of a %s changes it", (_, page) => {
    expect(distinct(page, PAGE * 8, flip)).toBe(PAGE * 8 + 1);
  });

  test("swapped words, of a page and of two small numbers on a zero page, change it", () => {
    const swap = (words: Uint32Array, index: number, distance: number): void => {
      const other = (index + distance) % words.length;
      [words[index], words[other]] = [words[other]!, words[index]!];
    };
    for (const distance of [1, 2, 4, 8, 64, 512]) {
      // Half of the page's length apart, each pair would come twice.
      const count = distance === 512 ? 512 : 1024;
      expect(distinct(content, count, (words, index) => swap(words, index, distance))).toBe(count + 1);
    }
    const moved = distinct(new Uint32Array(PAGE / 4), 2046, (words, index) => {
      words[index >> 1] = 1 + (index & 1);
      words[(index >> 1) + 1] = 2 - (index & 1);
    });
    expect(moved).toBe(2047);
  });

  test("one unit taken from a word and added to another changes it", () => {
    const count = 1016;
    const changed = distinct(content, count, (words, index) => {
      words[index] = words[index]! + 1;
      words[index + 8] = words[index + 8]! - 1;
    });
    expect(changed).toBe(count + 1);
  });

  test("a flipped bit changes each bit of the hash half of the time", () => {
    const flips = 4096;
    const changes = new Uint32Array(128);
    const before = words128(hasher, content);
    const random = new Random(5);
    for (let round = 0; round < flips; round++) {
      const changed = content.slice();
      flip(changed, random.below(PAGE * 8));
      const after = words128(hasher, changed);
      for (let bit = 0; bit < 128; bit++) {
        if ((((after[bit >>> 5]! ^ before[bit >>> 5]!) >>> (bit & 31)) & 1) === 1) changes[bit]! += 1;
      }
    }
    // Six standard deviations of a fair coin: 128 such bits all stay within with a probability of 1 - 3e-7.
    const tolerance = 6 * Math.sqrt(flips / 4);
    for (const count of changes) expect(Math.abs(count - flips / 2)).toBeLessThan(tolerance);
  });

  function words128(of: PageHasher, page: Uint32Array): Uint32Array {
    of.hash(new Uint8Array(page.buffer));
    return of.hashes.slice(0, 4);
  }
});
