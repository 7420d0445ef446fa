import { describe, expect, test } from "vitest";

import type { ByteSink } from "../../../src/channels/index.js";
import { loadHost } from "../../../src/engine/incoming/load-host.js";
import { openMappedRam, readMappedRamTail } from "../../../src/engine/mapped-ram/open.js";
import { saveHost } from "../../../src/engine/outgoing/save-host.js";
import { sendMappedRam } from "../../../src/engine/outgoing/send.js";
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
    const result = await saveHost(host, file);
    expect(result).toMatchObject({ rounds: 1, pages: { normal: 7, zero: 512 + 16 - 7 }, downtimeMs: 0 });
    expect((await restored(file)).memory().equals(host.memory())).toBe(true);
    expect(host.calls).toEqual(["stop"]);
  });

  test("a host that changes all the time is saved as it was when it stopped", async () => {
    const host = new FakeHost();
    restless(host);
    await host.run();
    const file = new MemoryFile();
    const result = await saveHost(host, file, { maxRounds: 20, downtimeLimitMs: 0 });
    expect(host.running).toBe(false);
    expect(host.turns).toBeGreaterThan(20);
    expect(result.rounds).toBe(21);
    expect(result.pages.normal).toBeGreaterThan(20 * 64);
    const copy = await restored(file);
    expect(copy.memory().equals(host.memory())).toBe(true);
    expect(copy.device).toEqual(host.device);
    expect(copy.running).toBe(false);
  });

  test("the file does not grow with the rounds, a stream would", async () => {
    const sizes: number[] = [];
    const streams: number[] = [];
    for (const maxRounds of [1, 12]) {
      const host = new FakeHost();
      restless(host);
      await host.run();
      const { fileBytes, streamBytes } = await saveHost(host, new MemoryFile(), {
        maxRounds,
        downtimeLimitMs: 0,
      });
      sizes.push(fileBytes);
      streams.push(streamBytes);
    }
    expect(sizes[1]).toBe(sizes[0]);
    expect(streams[1]! - streams[0]!).toBeGreaterThan(11 * 64 * PAGE);
  });

  test("stops as soon as the rest can be written in time", async () => {
    const host = new FakeHost();
    await host.run();
    expect((await saveHost(host, new MemoryFile(), { maxRounds: 20 })).rounds).toBe(2);
  });

  test("live: false stops the guest before the first page", async () => {
    const host = new FakeHost();
    restless(host);
    await host.run();
    const file = new MemoryFile();
    const result = await saveHost(host, file, { live: false });
    expect(result.rounds).toBe(1);
    expect(result.downtimeMs).toBeGreaterThan(0);
    expect((await restored(file)).memory().equals(host.memory())).toBe(true);
  });

  test("counts a stream as it really comes out", async () => {
    const host = new FakeHost();
    host.ram[0]!.fill(9, 0, 100 * PAGE);
    const file = new MemoryFile();
    const { streamBytes } = await saveHost(host, file);
    let sent = 0;
    const sink: ByteSink = {
      write: (bytes) => Promise.resolve(void (sent += bytes.length)),
      end: () => Promise.resolve(),
      close: () => Promise.resolve(),
    };
    await sendMappedRam(file, openMappedRam(file), sink);
    // A sender ends the pages' part and the section apart.
    expect(sent - streamBytes).toBe(18);
  });

  test("the description says how long each section is", async () => {
    const host = new FakeHost();
    // Bytes that look like the section's own footer and an EOF.
    host.device = new Uint8Array([0x7e, 0, 0, 0, 2, 0, 6, 0, 0, 0, 2, 0x7b, 0x7d, 1]);
    const file = new MemoryFile();
    await saveHost(host, file);
    const { tail } = readMappedRamTail(file, openMappedRam(file));
    expect(tail.sections).toMatchObject([{ name: "fake", version: 3, payloadLength: 14 }]);
    expect(tail.description?.content).toMatchObject({
      pageSize: 4096,
      devices: [{ name: "fake", payloadBytes: 14 }],
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
