import { describe, expect, test } from "vitest";

import { HashDirtyLog } from "../../../src/engine/dirty-log/hash-dirty-log.js";
import type { HostRamBlock } from "../../../src/engine/ram-block.js";
import { PageBitmap } from "../../../src/memory/index.js";

const PAGE = 4096;
const SEGMENT = 5 << 20;

/** A block of two segments, longer than what is looked at and hashed at once. */
function block(): HostRamBlock {
  const segments = [new Uint8Array(SEGMENT), new Uint8Array(SEGMENT)];
  return { name: "pc.ram", usedLength: 2 * SEGMENT, segments };
}

describe("HashDirtyLog", () => {
  test("finds one byte on each side of every border", async () => {
    const ram = block();
    const log = new HashDirtyLog(() => [ram], PAGE);
    const pageCount = ram.usedLength / PAGE;
    log.take(0, { start: 0, end: pageCount }, () => undefined);
    const changed = [0, 63, 64, 1023, 1024, 1279, 1280, 2047, 2048, pageCount - 1];
    for (const page of changed) {
      const at = page * PAGE;
      ram.segments[at < SEGMENT ? 0 : 1]![(at % SEGMENT) + (page % PAGE)] = 1;
    }
    const dirty = new PageBitmap(pageCount);
    let breaths = 0;
    await log.sync([dirty], () => {
      breaths += 1;
      return Promise.resolve();
    });
    const found: number[] = [];
    for (let page = dirty.nextSet(0); page < pageCount; page = dirty.nextSet(page + 1)) found.push(page);
    expect(found).toEqual(changed);
    expect(breaths).toBe(3);
  });

  test("costs 16 bytes a page and a small buffer", () => {
    const small = new HashDirtyLog(() => [{ name: "a", usedLength: 0, segments: [] }], PAGE);
    const ram = block();
    const log = new HashDirtyLog(() => [ram], PAGE);
    expect(log.cost.memoryBytes - small.cost.memoryBytes).toBe((ram.usedLength / PAGE) * 16);
    expect(small.cost.memoryBytes).toBeLessThan(1 << 20);
  });

  test("hands out a copy: what its reader holds back does not change with the guest", () => {
    const ram = block();
    const log = new HashDirtyLog(() => [ram], PAGE);
    log.take(0, { start: 0, end: 1 }, (bytes) => {
      ram.segments[0]![0] = 9;
      expect(bytes[0]).toBe(0);
    });
  });
});
