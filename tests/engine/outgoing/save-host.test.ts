import { describe, expect, test } from "vitest";

import { loadHost } from "../../../src/engine/incoming/load-host.js";
import { openMappedRam } from "../../../src/engine/mapped-ram/open.js";
import { readMappedRamTail } from "../../../src/engine/mapped-ram/tail.js";
import { saveHost } from "../../../src/engine/outgoing/save-host.js";
import { CancelledError } from "../../../src/errors/index.js";
import { FakeHost, MemoryFile } from "../fake-host.js";

const PAGE = 4096;

/** A guest that writes somewhere, makes dense pages zero, and turns pages into something else and back. */
function restless(host: FakeHost): void {
  host.guest = (turn) => {
    const [low, high] = host.ram;
    low!.fill(turn, 0, 64 * PAGE);
    low!.fill(turn % 2, 64 * PAGE, 96 * PAGE);
    high![(turn * 7919) % high!.length] = turn + 1;
    host.video.fill(turn % 3, PAGE, 2 * PAGE);
  };
}

async function restored(file: MemoryFile): Promise<FakeHost> {
  const host = new FakeHost();
  for (const segment of host.ram) segment.fill(0xee);
  host.video.fill(0xee);
  await loadHost(host, file);
  return host;
}

describe("saveHost", () => {
  test("what a stopped host holds comes back", async () => {
    const host = new FakeHost();
    host.ram[1]!.fill(5, 3 * PAGE, 9 * PAGE);
    host.video[0] = 1;
    const file = new MemoryFile();
    const { info } = await saveHost(host, file);
    expect(info).toMatchObject({ status: "completed", downtime: 0 });
    expect(info.ram).toMatchObject({ "dirty-sync-count": 1, normal: 7, duplicate: 512 + 16 - 7 });
    expect((await restored(file)).memory().equals(host.memory())).toBe(true);
    expect(host.calls).toEqual(["stop"]);
  });

  test("a host that changes all the time is saved as it was when it stopped", async () => {
    const host = new FakeHost();
    restless(host);
    await host.run();
    const file = new MemoryFile();
    const { info } = await saveHost(host, file, { maxRounds: 20, downtimeLimitMs: 0 });
    expect(host.running).toBe(false);
    expect(host.turns).toBeGreaterThan(20);
    expect(info.ram?.["dirty-sync-count"]).toBe(21);
    expect(info.ram?.normal).toBeGreaterThan(20 * 64);
    const copy = await restored(file);
    expect(copy.memory().equals(host.memory())).toBe(true);
    expect(copy.device).toEqual(host.device);
    expect(copy.running).toBe(false);
  });

  test("the file does not grow with the rounds", async () => {
    const sizes: number[] = [];
    const transferred: number[] = [];
    for (const maxRounds of [1, 12]) {
      const host = new FakeHost();
      restless(host);
      await host.run();
      const { fileBytes, info } = await saveHost(host, new MemoryFile(), {
        maxRounds,
        downtimeLimitMs: 0,
      });
      sizes.push(fileBytes);
      transferred.push(info.ram?.transferred ?? 0);
    }
    expect(sizes[1]).toBe(sizes[0]);
    expect(transferred[1]! - transferred[0]!).toBeGreaterThan(11 * 64 * PAGE);
  });

  test("stops as soon as the rest can be written in time", async () => {
    const host = new FakeHost();
    await host.run();
    const { info } = await saveHost(host, new MemoryFile(), { maxRounds: 20 });
    // The first pass, one look at what had changed, and one with the guest stopped.
    expect(info.ram?.["dirty-sync-count"]).toBe(3);
  });

  test("what is left need not be nothing: it goes while the guest stands still", async () => {
    const host = new FakeHost();
    restless(host);
    await host.run();
    const { info } = await saveHost(host, new MemoryFile(), { maxRounds: 1000, downtimeLimitMs: 60_000 });
    expect(info.ram?.["dirty-sync-count"]).toBe(3);
    expect(info.ram?.["downtime-bytes"]).toBeGreaterThan(64 * PAGE);
  });

  test("live: false stops the guest before the first page", async () => {
    const host = new FakeHost();
    restless(host);
    await host.run();
    const file = new MemoryFile();
    const { info } = await saveHost(host, file, { live: false });
    expect(info.ram?.["dirty-sync-count"]).toBe(1);
    // What was written before the guest was stopped is the block list.
    expect(info.ram?.["precopy-bytes"]).toBeLessThan(PAGE);
    expect((await restored(file)).memory().equals(host.memory())).toBe(true);
  });

  test("counts what is really written", async () => {
    const host = new FakeHost();
    host.ram[0]!.fill(9, 0, 100 * PAGE);
    let written = 0;
    const file = new MemoryFile();
    const writeAt = file.writeAt.bind(file);
    file.writeAt = (bytes, at, length, position) => {
      written += length;
      writeAt(bytes, at, length, position);
    };
    const { info } = await saveHost(host, file);
    expect(info.ram?.transferred).toBe(written);
  });

  test("the description says how long each section is", async () => {
    const host = new FakeHost();
    // Bytes that look like the section's own footer and an EOF.
    host.device = new Uint8Array([0x7e, 0, 0, 0, 4, 0, 6, 0, 0, 0, 2, 0x7b, 0x7d, 1]);
    const file = new MemoryFile();
    await saveHost(host, file);
    const { tail } = readMappedRamTail(file, openMappedRam(file));
    expect(tail.sections).toMatchObject([
      { name: "globalstate", payloadLength: 104 },
      { name: "fake", version: 3, payloadLength: 14 },
    ]);
    expect(tail.description?.content).toMatchObject({
      pageSize: 4096,
      devices: [{ name: "globalstate" }, { name: "fake", payloadBytes: 14 }],
    });
    expect(tail.description?.text).toContain('"vmsd_name": "configuration/capabilities"');
    expect((await restored(file)).device).toEqual(host.device);
  });
});

describe("a save that does not come to its end", () => {
  test("cancelled: the guest runs on", async () => {
    const host = new FakeHost();
    const controller = new AbortController();
    host.guest = (turn) => {
      host.ram[0]!.fill(turn);
      if (turn === 5) controller.abort();
    };
    await host.run();
    const save = saveHost(host, new MemoryFile(), {
      maxRounds: 1000,
      downtimeLimitMs: 0,
      signal: controller.signal,
    });
    await expect(save).rejects.toThrow(CancelledError);
    expect(host.running).toBe(true);
    await host.stop();
  });

  test.each([
    ["the file fails", (file: MemoryFile) => (file.writeAt = () => fail("disk full"))],
    ["the devices fail", (_: MemoryFile, host: FakeHost) => (host.saveDevices = () => fail("disk full"))],
  ])("%s: the guest runs on", async (_name, damage) => {
    const host = new FakeHost();
    restless(host);
    await host.run();
    const file = new MemoryFile();
    damage(file, host);
    await expect(saveHost(host, file, { maxRounds: 3, downtimeLimitMs: 0 })).rejects.toThrow("disk full");
    expect(host.running).toBe(true);
    await host.stop();
  });

  test("commit fails: the guest runs on, a stopped one stays stopped", async () => {
    const host = new FakeHost();
    const commit = (): Promise<void> => Promise.reject(new Error("no room"));
    await expect(saveHost(host, new MemoryFile(), { commit })).rejects.toThrow("no room");
    expect(host.running).toBe(false);
    await host.run();
    await expect(saveHost(host, new MemoryFile(), { commit })).rejects.toThrow("no room");
    expect(host.running).toBe(true);
    await host.stop();
  });
});

function fail(message: string): never {
  throw new Error(message);
}
