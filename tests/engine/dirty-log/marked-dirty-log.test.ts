import { describe, expect, test } from "vitest";

import { MarkedDirtyLog } from "../../../src/engine/dirty-log/marked-dirty-log.js";
import { PageBitmap } from "../../../src/memory/index.js";
import { PAGE, PAGE_COUNTS, ToyGuest } from "./toy-guest.js";

function start(): { guest: ToyGuest; log: MarkedDirtyLog; dirty: PageBitmap[] } {
  const guest = new ToyGuest();
  const log = new MarkedDirtyLog(() => guest.blocks, PAGE);
  return { guest, log, dirty: PAGE_COUNTS.map((count) => new PageBitmap(count)) };
}

describe("MarkedDirtyLog", () => {
  test("marks each page that a write touches", async () => {
    const { log, dirty } = start();
    log.mark(0, 2 * PAGE - 1, 2);
    log.mark(0, 10 * PAGE, 3 * PAGE);
    log.mark(1, 5 * PAGE - 1, 1);
    log.mark(1, 0, 0);
    await log.sync(dirty);
    expect(dirty.map((bitmap) => [...bitmap.runs()])).toEqual([
      [
        { start: 1, end: 3 },
        { start: 10, end: 13 },
      ],
      [{ start: 4, end: 5 }],
    ]);
  });

  test("a sync hands marks over once", async () => {
    const { log, dirty } = start();
    log.mark(0, 0, 1);
    await log.sync(dirty);
    dirty[0]!.clear(0);
    await log.sync(dirty);
    expect(dirty[0]!.count()).toBe(0);
  });

  test("what was marked before a page is handed out is in it, and not dirty", async () => {
    const { guest, log, dirty } = start();
    guest.marking(log);
    guest.write(0, 5, 1, 8);
    log.take(0, { start: 0, end: 1 }, (bytes) => expect(bytes[5]).toBe(8));
    await log.sync(dirty);
    expect(dirty[0]!.count()).toBe(0);
  });

  test("what is marked while a page is handed out is dirty", async () => {
    const { log, dirty } = start();
    log.take(0, { start: 0, end: 1 }, () => log.mark(0, 5, 1));
    await log.sync(dirty);
    expect(dirty[0]!.has(0)).toBe(true);
  });

  test("writes to what a block has grown by do not fail the guest; writes beyond it are refused", async () => {
    const { guest, log, dirty } = start();
    const bytes = new Uint8Array((PAGE_COUNTS[0]! + 4) * PAGE);
    Object.assign(guest.blocks[0]!, { usedLength: bytes.length, segments: [bytes] });
    const end = PAGE_COUNTS[0]! * PAGE;
    log.mark(0, end - 1, 2);
    log.mark(0, end + PAGE, 3 * PAGE);
    expect(() => log.mark(0, end, 4 * PAGE + 1)).toThrow("not within RAM block");
    await log.sync(dirty);
    expect([...dirty[0]!.runs()]).toEqual([{ start: PAGE_COUNTS[0]! - 1, end: PAGE_COUNTS[0]! }]);
  });

  test("hands out the memory itself", () => {
    const { guest, log } = start();
    log.take(0, { start: 15, end: 16 }, (bytes) =>
      expect(bytes.buffer).toBe(guest.blocks[0]!.segments[0]!.buffer),
    );
  });

  test.each([
    [0, 40 * PAGE, 1],
    [0, 39 * PAGE, PAGE + 1],
    [1, -1, 1],
    [1, 0, Number.NaN],
    [0, 10, -5 * PAGE],
  ])("refuses a write to block %d at %d of %d bytes", (block, address, length) => {
    const { log } = start();
    expect(() => log.mark(block, address, length)).toThrow(expect.objectContaining({ code: "usage" }));
  });

  test("takes marks after its end, and does nothing with them", () => {
    const { log } = start();
    log.stop();
    expect(() => log.mark(0, 0, 1)).not.toThrow();
  });
});
