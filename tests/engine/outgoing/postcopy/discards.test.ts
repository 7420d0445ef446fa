import { describe, expect, test } from "vitest";

import {
  discardCommands,
  type DiscardedBlock,
  missByHostPages,
} from "../../../../src/engine/outgoing/postcopy/discards.js";
import { PageBitmap } from "../../../../src/memory/index.js";
import { decodeRamDiscard, MigrationCommand } from "../../../../src/wire/index.js";
import { Random } from "../../../support/random.js";

const PAGE = 4096;

function block(name: string, pageCount: number, hostPagePages: number, ...pages: number[]): DiscardedBlock {
  const missing = new PageBitmap(pageCount);
  for (const page of pages) missing.set(page);
  return { name, missing, hostPagePages };
}

const pagesOf = ({ missing }: DiscardedBlock): number[] =>
  [...missing.runs()].flatMap(({ start, end }) => Array.from({ length: end - start }, (_, at) => start + at));

describe("missByHostPages", () => {
  test("leaves pages alone that are host pages", () => {
    const one = block("a", 100, 1, 3, 4, 99);
    missByHostPages([one]);
    expect(pagesOf(one)).toEqual([3, 4, 99]);
  });

  test("makes whole host pages, and no more of them than needed", () => {
    const random = new Random(5);
    for (let round = 0; round < 200; round++) {
      const hostPagePages = 2 ** (1 + random.below(5));
      const pageCount = hostPagePages * (1 + random.below(20));
      const pages = Array.from({ length: 1 + random.below(12) }, () => random.below(pageCount));
      const one = block("a", pageCount, hostPagePages, ...pages);
      missByHostPages([one]);
      const touched = new Set(pages.map((page) => Math.floor(page / hostPagePages)));
      const expected = Array.from({ length: pageCount }, (_, page) => page);
      expect(pagesOf(one)).toEqual(expected.filter((page) => touched.has(Math.floor(page / hostPagePages))));
    }
  });

  test("where nothing is missing, the first host page goes again", () => {
    const blocks = [block("shared", 0, 1), block("a", 64, 16), block("b", 64, 1)];
    missByHostPages(blocks);
    expect(blocks.map((one) => pagesOf(one).length)).toEqual([0, 16, 0]);
    const other = [block("a", 64, 16), block("b", 64, 1, 5)];
    missByHostPages(other);
    expect(other.map((one) => pagesOf(one).length)).toEqual([0, 1]);
  });
});

test("a command has twelve ranges at most, of one block, and all of them say what is missing", () => {
  const scattered = Array.from({ length: 25 }, (_, index) => index * 2);
  const blocks = [block("a", 64, 1, ...scattered), block("none", 64, 1), block("b", 64, 1, 62, 63)];
  const commands = [...discardCommands(blocks, PAGE)];
  expect(commands.map(({ command }) => command)).toEqual(
    Array.from({ length: 4 }, () => MigrationCommand.POSTCOPY_RAM_DISCARD),
  );
  const discards = commands.map(({ data }) => decodeRamDiscard(data));
  expect(discards.map(({ block: name, ranges }) => [name, ranges.length])).toEqual([
    ["a", 12],
    ["a", 12],
    ["a", 1],
    ["b", 1],
  ]);
  expect(discards.flatMap(({ ranges }) => ranges).map(({ start }) => start / PAGE)).toEqual([
    ...scattered,
    62,
  ]);
  expect(discards.at(-1)?.ranges).toEqual([{ start: 62 * PAGE, length: 2 * PAGE }]);
});
