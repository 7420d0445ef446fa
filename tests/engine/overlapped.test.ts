/** Loads and saves with several transfers in flight, which end in any order, or fail, when the test says so. */

import { describe, expect, test } from "vitest";

import { loadHost } from "../../src/engine/incoming/load-host.js";
import { openMappedRam } from "../../src/engine/mapped-ram/open.js";
import { readPageBitmap } from "../../src/engine/mapped-ram/bitmaps.js";
import { saveHost } from "../../src/engine/outgoing/save-host.js";
import { CancelledError, FormatError, UsageError } from "../../src/errors/index.js";
import { Random } from "../support/random.js";
import { FakeHost, MemoryFile } from "./fake-host.js";
import { SlowFile } from "./slow-file.js";

const PAGE = 4096;

/** Long and short runs of pages with content, and of zero pages; the borders of segments lie in some. */
function fill(host: FakeHost, seed: number): void {
  const random = new Random(seed);
  for (const memory of [...host.ram, host.video]) {
    memory.fill(0);
    const pages = memory.length / PAGE;
    for (let page = 0; page < pages;) {
      const run = 1 + random.below(random.pick([2, 12, 90]));
      if (random.below(2) === 0) {
        for (let at = page; at < Math.min(page + run, pages); at++) {
          // One byte is enough to be a page with content.
          memory.fill(0, at * PAGE, (at + 1) * PAGE);
          memory[at * PAGE + random.below(PAGE)] = 1 + random.below(255);
        }
      }
      page += run;
    }
  }
}

function filled(seed = 1): FakeHost {
  const host = new FakeHost();
  fill(host, seed);
  return host;
}

/** Lets what runs end in an order that the seed says, until `done` has settled. */
async function endInAnyOrder(file: SlowFile, done: Promise<unknown>, seed: number): Promise<void> {
  const random = new Random(seed);
  let settled = false;
  const watch = (): void => void (settled = true);
  done.then(watch, watch);
  while (!settled) {
    await new Promise((resolve) => setImmediate(resolve));
    if (file.running.length > 0) random.pick(file.running).end();
  }
}

describe("a save with channels", () => {
  test.each([1, 2, 4, 255])(
    "%d: the same file as without, whatever order writes end in",
    async (channels) => {
      for (let seed = 1; seed <= 5; seed++) {
        const expected = new MemoryFile();
        await saveHost(filled(seed), expected);
        const file = new SlowFile();
        const saving = saveHost(filled(seed), file, { channels });
        await endInAnyOrder(file, saving, seed);
        await saving;
        expect(file.bytes.equals(expected.bytes)).toBe(true);
        expect(file.most).toBeLessThanOrEqual(channels);
      }
    },
  );

  test("so many are in flight, and bitmaps and devices come after the last of them", async () => {
    const host = new FakeHost();
    for (const segment of host.ram) segment.fill(7);
    const file = new SlowFile();
    const saving = saveHost(host, file, { channels: 2 });
    await file.waitFor(2);
    // The last one of the memory: its neighbour has ended.
    const before = file.sizeBytes;
    file.running[1]!.end();
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(file.running).toHaveLength(1);
    expect(() => openMappedRam(file)).toThrow(FormatError);
    expect(file.sizeBytes).toBeGreaterThanOrEqual(before);
    file.running[0]!.end();
    await endInAnyOrder(file, saving, 1);
    await saving;
    await loadHost(new FakeHost(), file);
  });

  test("a live save never writes a page twice at a time, and the file has what the guest had at its end", async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const host = filled(seed);
      const random = new Random(seed);
      host.guest = (turn) => {
        if (turn > 60) return;
        const memory = random.pick(host.ram);
        const page = random.below(memory.length / PAGE) * PAGE;
        // Also back to zero, and back to what it was.
        memory.fill(random.pick([0, turn & 255, 9]), page, page + PAGE);
      };
      await host.run();
      const file = new SlowFile();
      const saving = saveHost(host, file, { channels: 4, downtimeLimitMs: 0, maxRounds: 4 });
      await endInAnyOrder(file, saving, seed);
      const { info } = await saving;
      expect(info.ram?.["dirty-sync-count"]).toBeGreaterThan(1);
      expect(host.running).toBe(false);
      const loaded = new FakeHost();
      await loadHost(loaded, file);
      expect(loaded.memory().equals(host.memory())).toBe(true);
    }
  });

  test("a write that fails fails the save, after what was in flight has ended; the guest runs on", async () => {
    const host = new FakeHost();
    for (const segment of host.ram) segment.fill(7);
    await host.run();
    const file = new SlowFile();
    const saving = saveHost(host, file, { channels: 2 });
    await file.waitFor(2);
    let ended = false;
    saving.catch(() => (ended = true));
    file.running[1]!.fail(new Error("no space"));
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(ended).toBe(false);
    file.running[0]!.end();
    await expect(saving).rejects.toThrow("no space");
    expect(host.running).toBe(true);
    expect(() => openMappedRam(file)).toThrow(FormatError);
  });

  test("a save of a stopped guest that is cancelled waits for what reads its memory", async () => {
    const host = new FakeHost();
    for (const segment of host.ram) segment.fill(7);
    const file = new SlowFile();
    const controller = new AbortController();
    const saving = saveHost(host, file, { channels: 2, signal: controller.signal });
    let ended = false;
    saving.catch(() => (ended = true));
    await file.waitFor(2);
    controller.abort();
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(ended).toBe(false);
    for (const transfer of [...file.running]) transfer.end();
    await expect(saving).rejects.toBeInstanceOf(CancelledError);
    expect(file.running).toEqual([]);
  });

  test.each([0, 256, 1.5, Number.NaN])("%d channels cannot be", async (channels) => {
    await expect(saveHost(new FakeHost(), new MemoryFile(), { channels })).rejects.toBeInstanceOf(UsageError);
    await expect(loadHost(new FakeHost(), new MemoryFile(), { channels })).rejects.toBeInstanceOf(UsageError);
  });
});

describe("a load with channels", () => {
  async function saved(host: FakeHost): Promise<SlowFile> {
    const file = new SlowFile();
    await saveHost(host, file);
    return file;
  }

  test.each([1, 2, 4, 255])("%d: all memory comes back, whatever order reads end in", async (channels) => {
    for (let seed = 1; seed <= 8; seed++) {
      const host = filled(seed);
      const file = await saved(host);
      // What stands in the places of zero pages means nothing.
      const { blocks, pageSize } = openMappedRam(file);
      for (const block of blocks) {
        for (const { start, end } of readPageBitmap(file, block).clearRuns()) {
          file.bytes.fill(
            0xee,
            block.mapped!.pagesOffset + start * pageSize,
            block.mapped!.pagesOffset + end * pageSize,
          );
        }
      }
      const loaded = new FakeHost();
      for (const memory of [...loaded.ram, loaded.video]) memory.fill(0xab);
      const loading = loadHost(loaded, file, { channels });
      await endInAnyOrder(file, loading, seed);
      const { pages } = await loading;
      expect(loaded.memory().equals(host.memory())).toBe(true);
      expect(file.most).toBeLessThanOrEqual(channels);
      expect(pages).toEqual((await loadHost(new FakeHost(), file)).pages);
    }
  });

  test("devices are loaded only when the last read has ended", async () => {
    const host = new FakeHost();
    for (const segment of host.ram) segment.fill(7);
    const file = await saved(host);
    const loaded = new FakeHost();
    const loading = loadHost(loaded, file, { channels: 4 });
    await file.waitFor(2);
    file.running[0]!.end();
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(loaded.loads).toBe(0);
    await endInAnyOrder(file, loading, 1);
    await loading;
    expect(loaded.loads).toBe(1);
  });

  test("a read that fails fails the load when the others have ended", async () => {
    const host = new FakeHost();
    for (const segment of host.ram) segment.fill(7);
    const file = await saved(host);
    const loaded = new FakeHost();
    const loading = loadHost(loaded, file, { channels: 4 });
    let ended = false;
    loading.catch(() => (ended = true));
    await file.waitFor(2);
    file.running[0]!.fail(new Error("bad sector"));
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(ended).toBe(false);
    await endInAnyOrder(file, loading, 1);
    await expect(loading).rejects.toThrow("bad sector");
    expect(loaded.loads).toBe(0);
  });

  test("a file that becomes shorter while it is read is cut off inside a page", async () => {
    const host = new FakeHost();
    host.ram[1]!.fill(7);
    const file = await saved(host);
    const loading = loadHost(new FakeHost(), file, { channels: 2 });
    await file.waitFor(1);
    const { position } = file.running[0]!;
    file.bytes = file.bytes.subarray(0, position + 5000);
    file.running[0]!.end();
    await expect(loading).rejects.toMatchObject({
      code: "truncated",
      data: { offset: position + 5000, block: "pc.ram" },
    });
  });

  test("cancelled, it ends when nothing writes into memory any more", async () => {
    const host = new FakeHost();
    for (const segment of host.ram) segment.fill(7);
    const file = await saved(host);
    const controller = new AbortController();
    // The slice that is heard in between is of 4 MiB.
    const loading = loadHost(new FakeHost(), file, { channels: 1, signal: controller.signal });
    loading.catch(() => undefined);
    await file.waitFor(1);
    controller.abort();
    await endInAnyOrder(file, loading, 1);
    expect(file.running).toEqual([]);
  });
});
