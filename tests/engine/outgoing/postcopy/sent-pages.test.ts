import { describe, expect, test } from "vitest";

import type { PageSource } from "../../../../src/engine/outgoing/postcopy/page-source.js";
import { PageRequestQueue } from "../../../../src/engine/outgoing/postcopy/request-queue.js";
import { SentPages } from "../../../../src/engine/outgoing/postcopy/sent-pages.js";
import { ServiceTimes } from "../../../../src/engine/outgoing/postcopy/service-times.js";
import { PageBitmap } from "../../../../src/memory/index.js";
import { Random } from "../../../support/random.js";

const PAGE = 4096;

/** Blocks of so many host pages of so many target pages. */
function sourceOf(
  random: Random,
  blocks: readonly (readonly [pages: number, targetPages: number])[],
): PageSource {
  return {
    targetPageSize: PAGE,
    looksForZeros: false,
    readPages: () => undefined,
    blocks: blocks.map(([pages, targetPages], index) => {
      const content = new PageBitmap(pages * targetPages);
      for (let page = 0; page < content.pageCount; page++) if (random.below(3) === 0) content.set(page);
      const hostPageSize = targetPages * PAGE;
      return { name: `ram${index}`, usedLength: pages * hostPageSize, hostPageSize, content };
    }),
  };
}

/** Host pages with content, as `block:page`. */
function pagesWithContent(source: PageSource): Set<string> {
  const pages = new Set<string>();
  source.blocks.forEach(({ content, hostPageSize }, block) => {
    for (let page = 0; page < content.pageCount; page++) {
      if (content.has(page)) pages.add(`${block}:${Math.floor((page * PAGE) / hostPageSize)}`);
    }
  });
  return pages;
}

describe("sent pages", () => {
  test.each([
    [
      "small pages",
      [
        [130, 1],
        [1, 1],
        [64, 1],
      ],
    ],
    [
      "large pages between small ones",
      [
        [40, 1],
        [17, 8],
        [33, 1],
      ],
    ],
  ] as const)("every page with content is found once, from wherever one starts: %s", (_what, blocks) => {
    for (let seed = 0; seed < 30; seed++) {
      const random = new Random(seed);
      const source = sourceOf(random, blocks);
      const sent = new SentPages(source);
      const left = pagesWithContent(source);
      while (true) {
        const block = random.below(blocks.length);
        const from = { block, page: random.below(sent.hostPages(block) + 1) };
        const most = 1 + random.below(20);
        const run = sent.nextPending(from, () => most);
        if (run === undefined) break;
        expect(run.end - run.start).toBeLessThanOrEqual(most);
        sent.markSent(run);
        for (let page = run.start; page < run.end; page++) {
          expect(left.delete(`${run.block}:${page}`)).toBe(true);
        }
      }
      expect(left.size).toBe(0);
      expect(sent.pendingBytes).toBe(0);
      sent.pendAll();
      const unsent = source.blocks.map((_, index) =>
        sent.unsentIn({ block: index, start: 0, end: sent.hostPages(index) }),
      );
      const bytes = unsent.flat().reduce((sum, { block, start, end }) => {
        return sum + (end - start) * source.blocks[block]!.hostPageSize;
      }, 0);
      expect(sent.pendingBytes).toBe(bytes);
    }
  });

  test("a page is not taken twice", () => {
    const sent = new SentPages(sourceOf(new Random(1), [[10, 1]]));
    sent.markSent({ block: 0, start: 3, end: 5 });
    expect(() => {
      sent.markSent({ block: 0, start: 4, end: 6 });
    }).toThrow("no page is sent twice");
  });

  test("what the destination has replaces what was sent; half a host page is none", () => {
    const source = sourceOf(new Random(1), [[8, 4]]);
    const sent = new SentPages(source);
    sent.markSent({ block: 0, start: 0, end: 8 });
    const received = new PageBitmap(32);
    received.setRange(2, 13);
    received.setRange(20, 24);
    sent.adoptReceived(0, received);
    const there = Array.from({ length: 8 }, (_, page) => sent.isSent(0, page));
    expect(there).toEqual([false, true, true, false, false, true, false, false]);
  });
});

describe("the queue of requests", () => {
  test("first come, first served, each page once, and none that went with another", () => {
    const sent = new SentPages(
      sourceOf(new Random(1), [
        [50, 1],
        [10, 2],
      ]),
    );
    const queue = new PageRequestQueue(
      sourceOf(new Random(1), [
        [50, 1],
        [10, 2],
      ]),
      sent,
    );
    queue.add({ block: "ram0", start: 9 * PAGE, length: PAGE }, 0, 1);
    queue.add({ block: undefined, start: 4 * PAGE, length: 2 * PAGE }, 0, 2);
    queue.add({ block: "ram1", start: 4 * PAGE, length: 2 * PAGE }, 0, 3);
    queue.add({ block: "ram0", start: 9 * PAGE, length: PAGE }, 0, 4);
    sent.markSent({ block: 0, start: 5, end: 6 });
    expect(queue.take()).toEqual({ block: 0, page: 9, askedAtMs: 1 });
    expect(queue.take()).toEqual({ block: 0, page: 4, askedAtMs: 2 });
    expect(queue.take()).toEqual({ block: 1, page: 2, askedAtMs: 3 });
    expect(queue.take()).toBeUndefined();
  });

  test("over a new connection nothing is left, and a block has to be named", () => {
    const source = sourceOf(new Random(1), [[50, 1]]);
    const queue = new PageRequestQueue(source, new SentPages(source));
    queue.add({ block: "ram0", start: 0, length: PAGE }, 0, 1);
    queue.clear();
    expect(queue.take()).toBeUndefined();
    expect(() => queue.add({ block: undefined, start: 0, length: PAGE }, 77, 1)).toThrow(/no block.*77/);
    queue.add({ block: "ram0", start: 0, length: PAGE }, 0, 5);
    expect(queue.take()).toEqual({ block: 0, page: 0, askedAtMs: 5 });
  });
});

test("service times have percentiles to 9 %", () => {
  const times = new ServiceTimes();
  expect(times.percentile(0.5)).toBeUndefined();
  for (let value = 1; value <= 1000; value++) times.add(value / 100);
  for (const share of [0.1, 0.5, 0.99]) {
    expect(times.percentile(share)).toBeGreaterThanOrEqual(share * 10);
    expect(times.percentile(share)).toBeLessThanOrEqual(share * 10 * 1.1);
  }
  times.add(1e12);
  times.add(0);
  expect(times.count).toBe(1002);
});
