import { describe, expect, test } from "vitest";

import { CancelledError, UsageError } from "../../src/errors/index.js";
import {
  type DiffEvent,
  diffSnapshots,
  type DiffSummary,
  openSnapshot,
  type Snapshot,
  type WalkOptions,
} from "../../src/snapshot/index.js";
import { corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { buildGuest, filled, type GuestSpec, PAGE } from "./build-guest.js";

const open = async (spec: GuestSpec): Promise<Snapshot> => openSnapshot(buildGuest(spec));

async function collect(a: Snapshot, b: Snapshot, options: WalkOptions = {}): Promise<DiffEvent[]> {
  const events: DiffEvent[] = [];
  for await (const event of diffSnapshots(a, b, options)) events.push(event);
  return events;
}

function summaryOf(events: readonly DiffEvent[]): DiffSummary {
  const last = events.at(-1);
  if (last?.kind !== "summary") throw new Error("no summary at the end");
  return last.summary;
}

const rangesOf = (events: readonly DiffEvent[]): (readonly [number, number, string])[] =>
  events.flatMap((event) =>
    event.kind === "ranges"
      ? event.ranges.map(({ start, end, change }) => [start, end, change] as const)
      : [],
  );

const payload = (value: number): Uint8Array => new Uint8Array(300).fill(value);
const cpu = (bytes: Uint8Array, instance = 0, described = true) => ({
  name: "cpu",
  instance,
  version: 12,
  payload: bytes,
  described,
});

describe("pages", () => {
  test("what became of each", async () => {
    const a = await open({
      blocks: { ram: [filled(1), filled(2), undefined, filled(3), filled(0), filled(0), undefined] },
    });
    const b = await open({
      blocks: { ram: [filled(1), filled(9), filled(4), undefined, undefined, filled(5), undefined] },
    });
    const events = await collect(a, b);
    expect(rangesOf(events)).toEqual([
      [0, 1, "equal"],
      [1, 2, "changed"],
      [2, 3, "appeared"],
      [3, 4, "became-zero"],
      // Zero with and without content is the same.
      [4, 5, "equal"],
      [5, 6, "appeared"],
      [6, 7, "equal"],
    ]);
    expect(summaryOf(events)).toEqual({
      same: false,
      pages: { equal: 3, equalZero: 2, changed: 1, becameZero: 1, appeared: 2, onlyInA: 0, onlyInB: 0 },
      blocksOnlyInOne: 0,
      devicesOnlyInOne: 0,
      fields: 0,
    });
  });

  test("ranges are joined over windows, and what nobody has is not read", async () => {
    const pages = 3 * 256 + 100;
    const mostly = (value: number) =>
      Array.from({ length: pages }, (_, page) => (page < 600 ? filled(value) : undefined));
    const a = await open({ blocks: { ram: mostly(1) } });
    const b = await open({ blocks: { ram: mostly(2) } });
    const read: number[] = [];
    const watched = (snapshot: Snapshot): Snapshot =>
      Object.assign(Object.create(snapshot) as Snapshot, {
        presentRuns: snapshot.presentRuns.bind(snapshot),
        readSection: snapshot.readSection.bind(snapshot),
        readPages: (block: Snapshot["blocks"][number], first: number, target: Uint8Array) => {
          read.push(first);
          snapshot.readPages(block, first, target);
        },
        ...Object.fromEntries(
          (["blocks", "sections", "configuration", "description", "targetPageSize"] as const).map((key) => [
            key,
            snapshot[key],
          ]),
        ),
      });
    expect(rangesOf(await collect(watched(a), watched(b)))).toEqual([
      [0, 600, "changed"],
      [600, pages, "equal"],
    ]);
    expect(read).toEqual([0, 0, 256, 256, 512, 512]);
  });

  test("blocks of different lengths, and blocks that only one has", async () => {
    const a = await open({ blocks: { ram: [filled(1), filled(2), filled(3)], old: [filled(1)] } });
    const b = await open({ blocks: { ram: [filled(1)], new: [undefined] } });
    const events = await collect(a, b);
    expect(rangesOf(events)).toEqual([
      [0, 1, "equal"],
      [1, 3, "only-in-a"],
    ]);
    expect(events.filter(({ kind }) => kind === "block-only")).toEqual([
      { kind: "block-only", block: { name: "old", usedLength: PAGE, onlyIn: "a" } },
      { kind: "block-only", block: { name: "new", usedLength: PAGE, onlyIn: "b" } },
    ]);
    expect(summaryOf(events)).toMatchObject({ same: false, blocksOnlyInOne: 2, pages: { onlyInA: 2 } });
  });
});

describe("devices", () => {
  test("fields that differ, by name; bytes from the first difference on", async () => {
    const changed = payload(1);
    changed[260] = 0xff;
    const a = await open({ blocks: { ram: [undefined] }, devices: [cpu(payload(1)), cpu(payload(1), 1)] });
    const b = await open({ blocks: { ram: [undefined] }, devices: [cpu(changed), cpu(payload(1), 1)] });
    const events = await collect(a, b);
    expect(events.filter(({ kind }) => kind === "field")).toEqual([
      {
        kind: "field",
        field: {
          section: "cpu",
          instance: 0,
          path: "all",
          type: "buffer",
          a: `hex:${"01".repeat(32)}... (8 more bytes)`,
          b: `hex:ff${"01".repeat(31)}... (8 more bytes)`,
          firstDifference: 260,
        },
      },
    ]);
    expect(summaryOf(events)).toMatchObject({ same: false, fields: 1 });
  });

  test("one without a description is compared as bytes; one that is gone is named", async () => {
    const a = await open({
      blocks: { ram: [undefined] },
      devices: [cpu(payload(1), 0, false), cpu(payload(1), 1)],
    });
    const b = await open({ blocks: { ram: [undefined] }, devices: [cpu(payload(2), 0, false)] });
    const events = await collect(a, b);
    expect(events.find(({ kind }) => kind === "field")).toMatchObject({
      field: { path: "data", firstDifference: 0 },
    });
    expect(events.find(({ kind }) => kind === "device-only")).toEqual({
      kind: "device-only",
      device: { section: "cpu", instance: 1, onlyIn: "a" },
    });
  });

  test("the UUID", async () => {
    const a = await open({ blocks: { ram: [undefined] }, uuid: new Uint8Array(16) });
    const b = await open({ blocks: { ram: [undefined] }, uuid: new Uint8Array(16).fill(1) });
    expect(summaryOf(await collect(a, b))).toMatchObject({ same: false, fields: 1 });
  });
});

describe("what cannot be compared", () => {
  test("machines and page sizes", async () => {
    const a = await open({ blocks: { ram: [undefined] } });
    const machine = await open({ blocks: { ram: [undefined] }, machine: "other-2.0" });
    const pageSize = Object.create(a, { targetPageSize: { value: 8192 } }) as Snapshot;
    await expect(collect(a, machine)).rejects.toThrow(/machine types.*test-1.0.*other-2.0/);
    await expect(collect(a, pageSize)).rejects.toThrow(/page sizes.*4096.*8192/);
    await expect(collect(a, pageSize)).rejects.toThrow(UsageError);
  });

  test("a comparison that is cancelled ends", async () => {
    const a = await open({ blocks: { ram: [filled(1)] } });
    await expect(collect(a, a, { signal: AbortSignal.abort() })).rejects.toThrow(CancelledError);
  });
});

describeWithCorpus("guests that QEMU saved", () => {
  const openFile = async (name: string): Promise<Snapshot> => {
    const facts = corpusFile(name);
    return openSnapshot(corpusPath(facts), { offset: facts.container === "qemu" ? facts.streamOffset : 0 });
  };

  test.each([
    "q100-mr-pc",
    "q72-pc-xbzrle-dirty",
    "lv113-zstd",
    "q100-mr-s390x-s390-ccw-virtio",
    "q111-mr-pc-ignoreshared",
  ])("%s is the same as itself", async (name) => {
    const [a, b] = [await openFile(name), await openFile(name)];
    expect(summaryOf(await collect(a, b)).same).toBe(true);
    a.close();
    b.close();
  });

  test.each([
    ["q100-mr-pc", "q100-mr-pc-multifd4-directio"],
    ["q100-mr-pc", "q100-mr-pc-offset"],
    ["q72-pc-exec", "q72-pc-xbzrle-dirty"],
    ["lv113-raw", "lv113-zstd"],
  ])("%s and %s: ranges are what reading every page says", async (nameA, nameB) => {
    const [a, b] = [await openFile(nameA), await openFile(nameB)];
    const events = await collect(a, b);
    const zero = Buffer.alloc(PAGE);
    const [pageA, pageB] = [Buffer.alloc(PAGE), Buffer.alloc(PAGE)];
    let block = 0;
    const counts = { equal: 0, changed: 0, appeared: 0, "became-zero": 0, "only-in-a": 0, "only-in-b": 0 };
    let next = 0;
    for (const event of events) {
      if (event.kind === "block-end") [block, next] = [block + 1, 0];
      if (event.kind !== "ranges") continue;
      for (const { start, end, change } of event.ranges) {
        expect(start).toBe(next);
        next = end;
        counts[change] += end - start;
        if (change.startsWith("only")) continue;
        for (let page = start; page < end; page++) {
          a.readPages(a.blocks[block]!, page, pageA);
          b.readPages(b.blocks[block]!, page, pageB);
          const expected = pageA.equals(pageB)
            ? "equal"
            : pageA.equals(zero)
              ? "appeared"
              : pageB.equals(zero)
                ? "became-zero"
                : "changed";
          if (change !== expected)
            throw new Error(`page ${page} of block ${block}: ${change}, not ${expected}`);
        }
      }
    }
    const { pages, fields } = summaryOf(events);
    expect(pages).toMatchObject({ equal: counts.equal, changed: counts.changed, appeared: counts.appeared });
    expect(pages).toMatchObject({ becameZero: counts["became-zero"], onlyInA: counts["only-in-a"] });
    expect(fields).toBeGreaterThan(0);
    a.close();
    b.close();
  });
});
