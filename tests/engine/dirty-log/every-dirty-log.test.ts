import fc from "fast-check";
import { describe, expect, test } from "vitest";

import type { DirtyLog } from "../../../src/engine/dirty-log/dirty-log.js";
import { PageBitmap, type PageRun } from "../../../src/memory/index.js";
import { LOGS, PAGE, PAGE_COUNTS, ToyGuest } from "./toy-guest.js";

/** Who gets the pages: engine and destination in one. */
class Receiver {
  readonly dirty = PAGE_COUNTS.map((count) => {
    const bitmap = new PageBitmap(count);
    bitmap.setRange(0, count);
    return bitmap;
  });
  readonly memory = PAGE_COUNTS.map((count) => Buffer.alloc(count * PAGE, 0xa5));
  readonly #log: DirtyLog;

  constructor(log: DirtyLog) {
    this.#log = log;
  }

  /** Takes dirty pages from `from` on, at most so many in one run. */
  take(block: number, from: number, most: number): PageRun {
    const bitmap = this.dirty[block]!;
    const start = bitmap.nextSet(from);
    const run = { start, end: Math.min(bitmap.nextClear(start), start + most) };
    bitmap.clearRange(run.start, run.end);
    let next = run.start * PAGE;
    this.#log.take(block, run, (bytes, address) => {
      expect(address).toBe(next);
      this.memory[block]!.set(bytes, address);
      next += bytes.length;
    });
    expect(next).toBe(run.end * PAGE);
    return run;
  }

  takeAll(): void {
    for (const [block, bitmap] of this.dirty.entries()) {
      while (bitmap.count() > 0) this.take(block, 0, bitmap.pageCount);
    }
  }
}

const block = fc.integer({ min: 0, max: PAGE_COUNTS.length - 1 });
const write = block.chain((index) =>
  fc.record({
    kind: fc.constant("write" as const),
    block: fc.constant(index),
    at: fc.nat(PAGE_COUNTS[index]! * PAGE - 1),
    length: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 5 * PAGE })),
    // Few values: a page often changes back to what was handed out.
    value: fc.integer({ min: 0, max: 2 }),
  }),
);
const take = fc.record({
  kind: fc.constant("take" as const),
  block,
  from: fc.nat(40),
  most: fc.integer({ min: 1, max: 40 }),
});
const sync = fc.record({
  kind: fc.constant("sync" as const),
  /** What the guest does in the breaths. */
  meanwhile: fc.option(fc.array(write, { maxLength: 4 }), { nil: undefined }),
});
const move = fc.record({ kind: fc.constant("move" as const) });
const steps = fc.array(
  fc.oneof({ arbitrary: write, weight: 4 }, { arbitrary: take, weight: 3 }, sync, move),
  { maxLength: 60, size: "max" },
);

describe.each(LOGS)("%s", (name, start) => {
  test("what was handed out adds up to the guest's memory, whatever the order", async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (all) => {
        const guest = new ToyGuest();
        guest.write(0, 100, 500, 9);
        const log = start(guest);
        const receiver = new Receiver(log);
        for (const step of all) {
          if (step.kind === "write") guest.write(step.block, step.at, step.length, step.value);
          else if (step.kind === "move") guest.move();
          else if (step.kind === "take") receiver.take(step.block, step.from, step.most);
          else {
            const writes = [...(step.meanwhile ?? [])];
            const breathe = (): Promise<void> => {
              const next = writes.pop();
              if (next !== undefined) guest.write(next.block, next.at, next.length, next.value);
              guest.move();
              return Promise.resolve();
            };
            await log.sync(receiver.dirty, step.meanwhile === undefined ? undefined : breathe);
          }
        }
        await log.sync(receiver.dirty, undefined);
        receiver.takeAll();
        for (const [index, memory] of receiver.memory.entries()) {
          expect(Buffer.compare(memory, Buffer.concat(guest.blocks[index]!.segments))).toBe(0);
        }
        log.stop();
      }),
      { numRuns: 300 },
    );
  });

  test("finds the pages that changed, and no others", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(write, { maxLength: 12 }), async (writes) => {
        const guest = new ToyGuest();
        const log = start(guest);
        const receiver = new Receiver(log);
        receiver.takeAll();
        for (const { block: index, at, length, value } of writes) guest.write(index, at, length, value);
        await log.sync(receiver.dirty, undefined);
        for (const [index, count] of PAGE_COUNTS.entries()) {
          for (let page = 0; page < count; page++) {
            const differs = guest.page(index, page).some((byte) => byte !== 0);
            const written = writes.some(
              ({ block: other, at, length }) =>
                other === index && at < (page + 1) * PAGE && at + length > page * PAGE,
            );
            // A marked write counts as a change even when it writes what was there.
            expect(receiver.dirty[index]!.has(page)).toBe(name === "MarkedDirtyLog" ? written : differs);
          }
        }
      }),
      { numRuns: 100 },
    );
  });

  test("a page that changed, was handed out and changed back is dirty", async () => {
    const guest = new ToyGuest();
    const log = start(guest);
    const receiver = new Receiver(log);
    receiver.takeAll();
    guest.write(0, 3 * PAGE, 1, 7);
    await log.sync(receiver.dirty, undefined);
    expect(receiver.take(0, 0, 9)).toEqual({ start: 3, end: 4 });
    guest.write(0, 3 * PAGE, 1, 0);
    await log.sync(receiver.dirty, undefined);
    expect(receiver.dirty.map((bitmap) => [...bitmap.runs()])).toEqual([[{ start: 3, end: 4 }], []]);
  });

  test("does not take back bits that are set already", async () => {
    const guest = new ToyGuest();
    const log = start(guest);
    const receiver = new Receiver(log);
    receiver.takeAll();
    receiver.dirty[0]!.set(30);
    await log.sync(receiver.dirty, undefined);
    expect([...receiver.dirty[0]!.runs()]).toEqual([{ start: 30, end: 31 }]);
  });

  test("says what it costs", async () => {
    const guest = new ToyGuest();
    const log = start(guest);
    expect(log.cost!.lastSyncMs).toBeUndefined();
    await log.sync(new Receiver(log).dirty, undefined);
    expect(log.cost!.lastSyncMs).toBeGreaterThan(0);
    expect(log.cost!.memoryBytes).toBeGreaterThan(0);
    const held = log.cost!.memoryBytes;
    log.stop();
    expect(log.cost!.memoryBytes).toBeLessThan(held);
  });
});
