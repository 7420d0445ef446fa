import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";

import { expect, test } from "vitest";

import { connectSocket, SocketListener } from "../../../src/channels/index.js";
import { MachineError } from "../../../src/errors/index.js";
import { describeWithUserfaultfd } from "../../support/describe-with-userfaultfd.js";
import { startPageSource } from "../../support/page-source.js";
import { GUEST_BLOCKS, postcopyGuest, type PostcopyGuest } from "../../support/postcopy-guest.js";
import { Random } from "../../support/random.js";
import { SOURCE_PAGE, sourcePage } from "../../support/source-pages.js";
import { useWorkDir } from "../../support/work-dir.js";

const [{ name: BLOCK, pages: PAGES }] = GUEST_BLOCKS;
const workDir = useWorkDir();

async function guest(path: string, received: readonly number[] = []): Promise<PostcopyGuest> {
  return postcopyGuest(await connectSocket({ path }, path), received);
}

function pageOf(memory: Uint8Array, page: number): Uint8Array {
  return memory.subarray(page * SOURCE_PAGE, (page + 1) * SOURCE_PAGE);
}

function expectAll(memory: Uint8Array): void {
  for (let page = 0; page < PAGES; page++) {
    if (Buffer.compare(pageOf(memory, page), sourcePage(BLOCK, page)) !== 0) {
      expect(page, "of another content").toBeUndefined();
    }
  }
}

describeWithUserfaultfd("memory of this thread whose pages come from another one", () => {
  test("holds what the source has, wherever it is touched first", async () => {
    const path = workDir.file("s");
    const source = await startPageSource({ path, blocks: [{ name: BLOCK, pages: PAGES, sent: [5, 6] }] });
    const { memory, listening, statuses } = await guest(path, [5, 6]);
    listening.running();
    expect(Buffer.compare(pageOf(memory, 6), sourcePage(BLOCK, 6))).toBe(0);
    const random = new Random(1);
    const waitsMs: number[] = [];
    for (let count = 0; count < 600; count++) {
      const page = random.below(PAGES);
      const expected = sourcePage(BLOCK, page);
      const startMs = performance.now();
      const first = memory[page * SOURCE_PAGE + 4];
      waitsMs.push(performance.now() - startMs);
      expect(first).toBe(expected[4]);
      if (Buffer.compare(pageOf(memory, page), expected) !== 0) expect(page).toBeUndefined();
      memory[page * SOURCE_PAGE + 4] = expected[4] ?? 0;
    }
    await source.order("fill");
    const { requests, pages } = await listening.ended;
    expectAll(memory);
    expect(await source.shut()).toBe(requests);
    expect(pages.normal + pages.zero).toBe(PAGES - 2);
    expect(statuses).toEqual(["postcopy-active", "completed"]);
    const missing = waitsMs.filter((ms) => ms > 0.005).sort((a, b) => a - b);
    const us = (part: number): string =>
      ((missing[Math.floor(missing.length * part)] ?? 0) * 1000).toFixed(0);
    console.log(`${missing.length} waits for a page: p50 ${us(0.5)} us, p99 ${us(0.99)} us`);
  });

  test("is zero where it is missing when the migration breaks off before the guest runs, and the guest must not", async () => {
    const path = workDir.file("s");
    const source = await startPageSource({ path, blocks: GUEST_BLOCKS });
    const { memory, listening, statuses, lost } = await guest(path);
    expect(Buffer.compare(pageOf(memory, 8), sourcePage(BLOCK, 8))).toBe(0);
    listening.ended.catch(() => undefined);
    await source.order("break");
    // Devices that are loaded at that time look at memory; they do not wait for ever.
    expect(memory[9 * SOURCE_PAGE + 4]).toBe(0);
    expect(() => listening.running()).toThrow(MachineError);
    await expect(listening.ended).rejects.toMatchObject({ name: "MachineError", code: "connection-closed" });
    expect(statuses).toEqual(["postcopy-active", "failed"]);
    expect(lost).toEqual([]);
  });

  test("goes on over another connection, and a page that is waited for comes over that", async () => {
    const path = workDir.file("s");
    const source = await startPageSource({ path, blocks: GUEST_BLOCKS });
    const { memory, listening, statuses, held } = await guest(path);
    listening.running();
    await source.order("fill-half");
    expect(memory[4]).toBe(sourcePage(BLOCK, 0)[4]);
    await source.order("break");
    await expect.poll(() => statuses.at(-1)).toBe("postcopy-paused");
    const channel = await connectSocket({ path }, path);
    await listening.recover({ main: channel, returnPath: channel });
    expect(Buffer.compare(pageOf(memory, 1), sourcePage(BLOCK, 1))).toBe(0);
    await source.order("fill");
    await listening.ended;
    expectAll(memory);
    expect(statuses).toEqual([
      ...["postcopy-active", "postcopy-paused", "postcopy-recover", "postcopy-active", "completed"],
    ]);
    expect(held).toEqual([false, true, true, false, false]);
  });

  test("comes from a source that comes back by itself while this thread waits for a page", async () => {
    const path = workDir.file("s");
    const source = await startPageSource({ path, blocks: GUEST_BLOCKS, connects: true });
    const listener = await SocketListener.listen({ path }, path);
    await source.order("connect");
    const channel = await listener.accept();
    await listener.close();
    const { memory, listening, statuses } = await postcopyGuest(channel);
    listening.running();
    await source.order("fill-half");
    await source.order("break-when-asked");
    // Nothing of this thread runs until the page is there.
    expect(Buffer.compare(pageOf(memory, 77), sourcePage(BLOCK, 77))).toBe(0);
    await source.order("fill");
    await listening.ended;
    expectAll(memory);
    expect(statuses).toEqual([
      ...["postcopy-active", "postcopy-paused", "postcopy-recover", "postcopy-active", "completed"],
    ]);
  });

  test("takes the guest from its thread when it is given up", async () => {
    const path = workDir.file("s");
    await startPageSource({ path, blocks: GUEST_BLOCKS });
    const { listening, statuses, lost } = await guest(path);
    listening.running();
    listening.abort(new Error("enough"));
    await expect(listening.ended).rejects.toMatchObject({ code: "migration-failed" });
    expect(lost).toHaveLength(1);
    expect(statuses).toEqual(["postcopy-active", "failed"]);
  });

  test("ends the process with a reason when the guest that waits was given up", async () => {
    const path = workDir.file("s");
    await startPageSource({ path, blocks: GUEST_BLOCKS });
    const script = fileURLToPath(new URL("../../support/given-up-guest.ts", import.meta.url));
    const { code, stderr } = await new Promise<{ code: unknown; stderr: string }>((resolve) => {
      execFile(process.execPath, ["--import", "tsx", script, path], (error, _stdout, text) =>
        resolve({ code: error?.code, stderr: text }),
      );
    });
    expect(stderr).toMatch(/^ramport: The guest waits for a page that will never come: .*broken off/m);
    expect(code).toBe(1);
  });
});
