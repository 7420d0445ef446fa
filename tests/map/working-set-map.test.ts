import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { mapNumbers, mapWorkingSet, type MemoryMap, writeMap } from "../../src/map/index.js";
import { openSnapshot, type WorkingSetRun } from "../../src/snapshot/index.js";
import { buildGuest, filled, PAGE } from "../snapshot/build-guest.js";
import { Random } from "../support/random.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const content = filled(7);

async function mapOf(
  blocks: Readonly<Record<string, readonly (Uint8Array | undefined)[]>>,
  runs: readonly WorkingSetRun[],
  maxCells?: number,
): Promise<MemoryMap> {
  const snapshot = await openSnapshot(buildGuest({ blocks }));
  const layout = Object.entries(blocks).map(([name, pages]) => ({ name, usedLength: pages.length * PAGE }));
  const set = { targetPageSize: PAGE, blocks: layout, fingerprint: new Uint8Array(16), runs };
  return mapWorkingSet(snapshot, set, maxCells === undefined ? {} : { maxCells });
}

const kindsOf = ({ blocks, kinds }: MemoryMap): string[] =>
  blocks.map(({ cells }) =>
    Array.from(
      { length: cells?.cellCount ?? 0 },
      (_, cell) => kinds[cells?.paint(cell, kinds).kind ?? -1]?.id.replace("asked-", "") ?? "",
    ).join(" "),
  );

describe("mapWorkingSet", () => {
  test("tells what was asked for, and in which third, from other content and from nothing", async () => {
    const map = await mapOf(
      {
        ram: [content, content, content, undefined, undefined, content, content, content],
        rom: [content, undefined, content],
      },
      [
        { block: 0, firstPage: 6, pageCount: 1 },
        { block: 0, firstPage: 2, pageCount: 3 },
        { block: 1, firstPage: 2, pageCount: 1 },
        { block: 0, firstPage: 0, pageCount: 1 },
      ],
    );
    expect(kindsOf(map)).toEqual([
      "last not-asked first next next not-asked first not-asked",
      "not-asked zero last",
    ]);
    expect(map.subject).toBe("working-set");
  });

  test("counts each page once, wherever runs of either kind begin and end", async () => {
    const random = new Random(3);
    for (let round = 0; round < 30; round++) {
      const pages = Array.from({ length: 100 }, () => (random.below(3) === 0 ? undefined : content));
      const asked: WorkingSetRun[] = [];
      for (let page = random.below(9); page < 100;) {
        const pageCount = Math.min(100 - page, 1 + random.below(7));
        asked.push({ block: 0, firstPage: page, pageCount });
        page += pageCount + random.below(9);
      }
      const wanted = new Set(
        asked.flatMap((run) => Array.from({ length: run.pageCount }, (_, i) => run.firstPage + i)),
      );
      const { kinds } = mapNumbers(await mapOf({ ram: pages }, asked.toReversed(), 7));
      const rest = [...pages.keys()].filter((page) => !wanted.has(page));
      expect(kinds["not-asked"]?.pages).toBe(rest.filter((page) => pages[page] !== undefined).length);
      expect(kinds.zero?.pages).toBe(rest.filter((page) => pages[page] === undefined).length);
      const thirds = ["asked-first", "asked-next", "asked-last"].map((id) => kinds[id]?.pages ?? 0);
      expect(thirds.reduce((a, b) => a + b)).toBe(wanted.size);
      expect(Math.max(...thirds) - Math.min(...thirds)).toBeLessThanOrEqual(1);
    }
  });

  test("is drawn in all formats", async () => {
    const map = await mapOf({ ram: [content, content, undefined] }, [
      { block: 0, firstPage: 1, pageCount: 1 },
    ]);
    for (const name of ["a.svg", "a.html", "a.png"]) {
      await writeMap(map, workDir.file(name), { labels: ["vm.ram"] });
    }
    expect(readFileSync(workDir.file("a.svg"), "utf8")).toContain("Guest memory, and its working set");
    expect(readFileSync(workDir.file("a.html"), "utf8")).toContain("Asked for first");
    expect(readFileSync(workDir.file("a.png")).length).toBeGreaterThan(1000);
  });

  test("another guest's is refused", async () => {
    const snapshot = await openSnapshot(buildGuest({ blocks: { ram: [content] } }));
    const set = {
      targetPageSize: PAGE,
      blocks: [{ name: "ram", usedLength: 2 * PAGE }],
      fingerprint: new Uint8Array(16),
      runs: [],
    };
    expect(() => mapWorkingSet(snapshot, set)).toThrow(/another guest: ram of 8192 bytes, and ram of 4096/);
  });
});
