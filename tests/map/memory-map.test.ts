import { decode } from "fast-png";
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { CancelledError, UsageError } from "../../src/errors/index.js";
import { mapDifference, mapMemory, mapNumbers, type MemoryMap, writeMap } from "../../src/map/index.js";
import { MEMORY_KINDS } from "../../src/map/kinds.js";
import { PAGE_CLASSES, PageClassifier } from "../../src/memory/index.js";
import { openSnapshot } from "../../src/snapshot/index.js";
import { buildGuest, filled, type GuestSpec, PAGE } from "../snapshot/build-guest.js";
import { corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { Random } from "../support/random.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const text = Buffer.from("To be, or not to be: that is the page.\n".repeat(200)).subarray(0, PAGE);
const sparse = new Uint8Array(PAGE).fill(1, 0, 9);

async function mapOf(spec: GuestSpec, maxCells?: number): Promise<MemoryMap> {
  const snapshot = await openSnapshot(buildGuest(spec));
  return mapMemory(snapshot, maxCells === undefined ? {} : { maxCells });
}

const pagesOf = (map: MemoryMap): Record<string, number> =>
  Object.fromEntries(Object.entries(mapNumbers(map).kinds).map(([id, { pages }]) => [id, pages]));

test("the kinds of memory begin with the classes of pages, in their order", () => {
  expect(MEMORY_KINDS.map(({ id }) => id)).toEqual([...PAGE_CLASSES, "repeated"]);
});

describe("mapMemory", () => {
  test("a guest of several windows: what a page is counted as is what it looks like", async () => {
    const random = new Random(9);
    const classifier = new PageClassifier(PAGE);
    const expected = { zero: 0, sparse: 0, text: 0, data: 0, dense: 0, repeated: 0 };
    const pages = Array.from({ length: 700 }, (_, index) => {
      const page = new Uint8Array(PAGE);
      const fill = random.pick([0, 100, 700, 2500, PAGE]);
      const values = random.pick([3, 100, 256]);
      for (let at = 0; at < fill; at++) page[at] = 0x20 + random.below(values);
      // No two alike, and nothing of a page but its end in its last bytes.
      if (fill > 0) new DataView(page.buffer).setUint16(PAGE - 2, index + 1);
      const absent = fill === 0 && random.below(2) === 0;
      expected[absent ? "zero" : classifier.classify(page, 0)] += 1;
      return absent ? undefined : page;
    });
    expect(pagesOf(await mapOf({ blocks: { ram: pages.slice(0, 690), rom: pages.slice(690) } }))).toEqual(
      expected,
    );
    expect(Object.values(expected).filter((count) => count > 10)).toHaveLength(5);
  });

  test("each page is of one kind; repeated ones are found across blocks", async () => {
    const map = await mapOf({
      blocks: {
        ram: [undefined, filled(0), sparse, text, randomBytes(PAGE), filled(5), filled(6), undefined],
        rom: [filled(5), filled(5), filled(7)],
      },
    });
    expect(pagesOf(map)).toEqual({ zero: 3, sparse: 1, text: 1, data: 2, dense: 1, repeated: 3 });
    expect(map.repeatedContents).toBe(1);
    expect(mapNumbers(map).blocks.map(({ name, kinds }) => [name, kinds.repeated])).toEqual([
      ["ram", { pages: 1, bytes: PAGE }],
      ["rom", { pages: 2, bytes: 2 * PAGE }],
    ]);
    expect(map.cellPages).toBe(1);
    const [ram] = map.blocks;
    expect(
      Array.from({ length: 8 }, (_, cell) => map.kinds[ram!.cells!.paint(cell, map.kinds).kind]!.id),
    ).toEqual(["zero", "zero", "sparse", "text", "dense", "repeated", "data", "zero"]);
  });

  test("cells of several pages: the loudest kind, and how much of it", async () => {
    const map = await mapOf(
      { blocks: { ram: [undefined, undefined, undefined, text, sparse, ...noise(4)] } },
      3,
    );
    expect(map.cellPages).toBe(4);
    const { cells } = map.blocks[0]!;
    const paints = Array.from({ length: cells!.cellCount }, (_, cell) => cells!.paint(cell, map.kinds));
    expect(paints.map(({ kind, shade }) => [map.kinds[kind]!.id, shade])).toEqual([
      ["text", 0],
      ["dense", 3],
      ["dense", 3],
    ]);
  });

  test("a guest of many pages has few cells", async () => {
    const map = await mapOf(
      { blocks: { ram: new Array<undefined>(5000).fill(undefined), rom: [text] } },
      100,
    );
    expect(map.cellPages).toBe(64);
    expect(map.blocks.map(({ cells }) => cells!.cellCount)).toEqual([79, 1]);
    expect(pagesOf(map)).toMatchObject({ zero: 5000, text: 1 });
  });

  test("can be cancelled", async () => {
    const snapshot = await openSnapshot(buildGuest({ blocks: { ram: [text] } }));
    await expect(mapMemory(snapshot, { signal: AbortSignal.abort() })).rejects.toThrow(CancelledError);
  });
});

test("mapDifference counts as diff does", async () => {
  const a = await openSnapshot(
    buildGuest({ blocks: { ram: [undefined, text, filled(1), sparse, undefined, text], old: [text] } }),
  );
  const b = await openSnapshot(
    buildGuest({ blocks: { ram: [undefined, text, filled(2), undefined, text] } }),
  );
  expect(pagesOf(await mapDifference(a, b))).toEqual({
    zero: 1,
    equal: 1,
    changed: 1,
    "became-zero": 1,
    appeared: 1,
    "only-in-a": 2,
    "only-in-b": 0,
  });
});

describe("writeMap", () => {
  const hostile = `<script>alert(1)</script>&"'\u0007]]>`;
  const options = { labels: [`</title><u>${hostile}`] };
  const hostileMap = (): Promise<MemoryMap> =>
    mapOf({ machine: hostile, blocks: { [hostile]: [text, filled(1), undefined] } });

  test("texts from the snapshot are no markup", async () => {
    const map = await hostileMap();
    for (const name of ["map.html", "map.svg"]) {
      await writeMap(map, workDir.file(name), options);
      const written = readFileSync(workDir.file(name), "utf8");
      expect(written).not.toContain("<script>alert");
      expect(written).not.toContain("<u>");
      expect(written).not.toContain("\u0007");
      expect(written).toContain("&#60;script&#62;alert");
      expect(written).not.toMatch(
        /(?:src|href)="(?!data:)|url\(|@import|https?:\/\/(?!www\.w3\.org\/2000\/svg)/,
      );
    }
  });

  test("a PNG has the colours of its cells", async () => {
    const map = await mapOf({ blocks: { ram: [text, undefined, ...noise(2)] } });
    await writeMap(map, workDir.file("map.png"), { labels: ["vm"] });
    const { width, height, data, channels } = decode(readFileSync(workDir.file("map.png")));
    expect([width, channels]).toEqual([2240, 3]);
    const colours = new Map<number, number>();
    for (let at = 0; at < width * height * 3; at += 3) {
      const colour = (data[at]! << 16) | (data[at + 1]! << 8) | data[at + 2]!;
      colours.set(colour, (colours.get(colour) ?? 0) + 1);
    }
    const pixelsOf = (id: string): number =>
      colours.get(Number.parseInt(map.kinds.find((kind) => kind.id === id)!.light.slice(1), 16)) ?? 0;
    // A cell of 11 by 11 units, two pixels each; the bar and the legend's mark come on top.
    const mark = 28 * 28;
    expect(pixelsOf("text")).toBeGreaterThanOrEqual(22 * 22 + mark);
    expect(pixelsOf("dense")).toBeGreaterThanOrEqual(2 * 22 * 22 + mark);
    expect(pixelsOf("sparse")).toBe(mark);
  });

  test("the extension says what to draw, and only what is known is", async () => {
    const map = await hostileMap();
    await expect(writeMap(map, workDir.file("map.pdf"), options)).rejects.toThrow(UsageError);
    await expect(writeMap(map, workDir.file("map"), options)).rejects.toThrow(/\.html, \.svg or \.png/);
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test("nothing is replaced or left behind", async () => {
    const map = await hostileMap();
    const file = workDir.file("map.svg");
    writeFileSync(file, "mine");
    await expect(writeMap(map, file, options)).rejects.toThrow(/exists already/);
    await expect(
      writeMap(map, file, { ...options, replace: true, signal: AbortSignal.abort() }),
    ).rejects.toThrow(CancelledError);
    expect(readFileSync(file, "utf8")).toBe("mine");
    expect(readdirSync(workDir.path)).toEqual(["map.svg"]);
    await writeMap(map, file, { ...options, replace: true });
    expect(readFileSync(file, "utf8")).toMatch(/^<\?xml .*<\/svg>\n$/s);
  });
});

describeWithCorpus("maps of guests that QEMU saved", () => {
  test.each([
    "q100-mr-q35-vga",
    "q72-pc-exec",
    "lv113-xz",
    "q111-mr-pc-ignoreshared",
    "q100-mr-alpha-clipper",
  ])("%s: every page counts once, zero ones as often as their content says", async (name) => {
    const facts = corpusFile(name);
    const snapshot = await openSnapshot(corpusPath(facts), {
      offset: facts.container === "qemu" ? facts.streamOffset : 0,
    });
    const map = await mapMemory(snapshot);
    for (const [index, block] of snapshot.blocks.entries()) {
      const cells = map.blocks[index]?.cells;
      if (cells === undefined) {
        expect(block.leftOut).toBe(true);
        continue;
      }
      const totals = cells.totals();
      expect(totals.reduce((sum, pages) => sum + pages, 0)).toBe(block.pageCount);
      const page = Buffer.alloc(block.pageSize);
      let zero = 0;
      for (let at = 0; at < block.pageCount; at++) {
        snapshot.readPages(block, at, page);
        if (page.every((byte) => byte === 0)) zero += 1;
      }
      expect(totals[0]).toBe(zero);
    }
    await writeMap(map, workDir.file("map.html"), { labels: [name] });
    snapshot.close();
  });
});

function noise(pages: number): Uint8Array[] {
  return Array.from({ length: pages }, () => randomBytes(PAGE));
}
