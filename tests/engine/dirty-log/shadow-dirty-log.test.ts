import { describe, expect, test } from "vitest";

import type { ShadowDirtyLog } from "../../../src/engine/dirty-log/shadow-dirty-log.js";
import { PageBitmap } from "../../../src/memory/index.js";
import { FakeHost } from "../fake-host.js";

const PAGE = 4096;

function bitmaps(host: FakeHost): PageBitmap[] {
  return host.ramBlocks().map(({ usedLength }) => new PageBitmap(usedLength / PAGE));
}

function taken(log: ShadowDirtyLog, block: number, start: number, end: number): Buffer {
  const pieces: Buffer[] = [];
  log.take(block, { start, end }, (bytes) => pieces.push(Buffer.from(bytes)));
  return Buffer.concat(pieces);
}

describe("ShadowDirtyLog", () => {
  test("finds the pages that differ from what was handed out", async () => {
    const host = new FakeHost();
    const log = host.startDirtyLog();
    for (const [block, bitmap] of bitmaps(host).entries()) taken(log, block, 0, bitmap.pageCount);
    host.ram[0]![5 * PAGE + 17] = 1;
    host.ram[1]![PAGE - 1] = 1;
    host.video[3 * PAGE] = 1;
    const dirty = bitmaps(host);
    await log.sync(dirty, undefined);
    expect(dirty.map((bitmap) => [...bitmap.runs()])).toEqual([
      [
        { start: 5, end: 6 },
        { start: 256, end: 257 },
      ],
      [{ start: 3, end: 4 }],
    ]);
  });

  test("a page that changed, was handed out and changed back is dirty", async () => {
    const host = new FakeHost();
    const log = host.startDirtyLog();
    taken(log, 0, 0, 512);
    host.ram[0]!.fill(7, 0, PAGE);
    await log.sync(bitmaps(host), undefined);
    expect(taken(log, 0, 0, 1)[0]).toBe(7);
    host.ram[0]!.fill(0, 0, PAGE);
    const dirty = bitmaps(host);
    await log.sync(dirty, undefined);
    expect(dirty[0]!.has(0)).toBe(true);
  });

  test("a page that changed and changed back in between is clean", async () => {
    const host = new FakeHost();
    const log = host.startDirtyLog();
    taken(log, 0, 0, 512);
    host.ram[0]!.fill(7, 0, PAGE);
    await log.sync(bitmaps(host), undefined);
    host.ram[0]!.fill(0, 0, PAGE);
    const dirty = bitmaps(host);
    await log.sync(dirty, undefined);
    expect(dirty[0]!.count()).toBe(0);
  });

  test("hands out the memory of now, across segments", () => {
    const host = new FakeHost();
    for (const [index, segment] of host.ram.entries()) segment.fill(index + 1);
    const bytes = taken(host.startDirtyLog(), 0, 255, 257);
    expect([bytes.length, bytes[0], bytes[PAGE - 1], bytes[PAGE], bytes.at(-1)]).toEqual([
      2 * PAGE,
      1,
      1,
      2,
      2,
    ]);
  });

  test("lets the guest run while it compares", async () => {
    const host = new FakeHost();
    let breaths = 0;
    await host.startDirtyLog().sync(bitmaps(host), () => {
      breaths += 1;
      return Promise.resolve();
    });
    expect(breaths).toBeGreaterThan(1);
  });
});
