import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { FormatError, MachineError, UsageError } from "../../src/errors/index.js";
import { openSnapshot, snapshotInfo } from "../../src/snapshot/index.js";
import { corpus, corpusPath, describeWithCorpus, mappedRamCorpus } from "../support/corpus.js";
import { useWorkDir } from "../support/work-dir.js";
import { sha256Of } from "./block-hash.js";
import { buildSnapshot, MemorySource } from "./build-snapshot.js";

describeWithCorpus("info of QEMU's own mapped-ram files", () => {
  test.each(mappedRamCorpus)("$name", async (facts) => {
    const info = await snapshotInfo(corpusPath(facts), { offset: facts.streamOffset });
    expect(info).toMatchObject({
      container: "qemu",
      format: "mapped-ram",
      version: 3,
      machine: facts.machine,
      capabilities: facts.capabilities,
      targetPageSize: facts.targetPageSize,
      streamOffset: facts.streamOffset,
      fileBytes: facts.bytes,
      complete: true,
      trailingBytes: 0,
    });
    expect(info.problem).toBeUndefined();
    expect(info.uuid?.replaceAll("-", "") ?? null).toBe(facts.uuid);
    expect(info.allocatedBytes).toBeGreaterThan(0);
    expect(
      info.ram.blocks.map((block) => ({
        name: block.name,
        usedLength: block.usedLength,
        pageSize: block.pageSize,
        bitmapOffset: block.bitmapOffset,
        pagesOffset: block.pagesOffset,
        bitsSet: block.pages?.normal,
      })),
    ).toEqual(
      facts.blocks.map((block) => ({
        name: block.name,
        usedLength: block.usedLength,
        pageSize: block.targetPageSize,
        bitmapOffset: block.bitmapOffset,
        pagesOffset: block.pagesOffset,
        bitsSet: block.bitsSet,
      })),
    );
    expect(info.ram.totalBytes).toBe(facts.blocks.reduce((sum, block) => sum + block.usedLength, 0));
    expect(JSON.parse(JSON.stringify(info))).toEqual(info);
  });

  test.each(mappedRamCorpus.filter((facts) => facts.devices.length > 0))(
    "device sections of $name",
    async (facts) => {
      const info = await snapshotInfo(corpusPath(facts), { offset: facts.streamOffset });
      // The oracle lists what the description does: sections that come at once.
      const devices = info.sections.filter((section) => !section.iterative);
      expect(devices.map(({ name, instance }) => [name, instance])).toEqual(
        facts.devices.map(([name, instance]) => [name, instance]),
      );
      for (const [index, [, , version]] of facts.devices.entries()) {
        if (version !== null) expect(devices[index]).toMatchObject({ version });
      }
    },
  );

  test.each(mappedRamCorpus)("sections of $name fill the file", async (facts) => {
    const { sections, description, fileBytes } = await snapshotInfo(corpusPath(facts), {
      offset: facts.streamOffset,
    });
    const bytes = readFileSync(corpusPath(facts));
    for (const { id, name, iterative, offset, length, payloadOffset, payloadLength } of sections) {
      expect(bytes[offset]).toBe(iterative ? 1 : 4);
      if (iterative || payloadOffset === undefined || payloadLength === undefined) continue;
      expect(payloadOffset).toBe(offset + 14 + name.length);
      expect(payloadOffset + payloadLength + 5).toBe(offset + length);
      expect(bytes[offset + length - 5]).toBe(0x7e);
      expect(bytes.readUInt32BE(offset + length - 4)).toBe(id);
    }
    // One follows the other, up to the EOF in front of the description's type and length.
    const whole = sections.filter((section) => !section.iterative);
    for (const [index, section] of whole.entries()) {
      expect(section.offset + section.length).toBeLessThanOrEqual(whole[index + 1]?.offset ?? Infinity);
    }
    expect(whole.at(-1)!.offset + whole.at(-1)!.length).toBe(description!.offset - 6);
    expect(description!.offset + description!.length).toBe(fileBytes);
    expect(Math.max(...sections.map((section) => section.offset + section.length))).toBe(
      description!.offset - 6,
    );
  });

  test.each(mappedRamCorpus)("memory of $name", async (facts) => {
    const snapshot = await openSnapshot(corpusPath(facts), { offset: facts.streamOffset });
    const buffer = Buffer.alloc(1 << 20);
    for (const [index, block] of snapshot.blocks.entries()) {
      if (block.leftOut) continue;
      const hash = createHash("sha256");
      const zeros = Buffer.alloc(1 << 20);
      let done = 0;
      const zerosUpTo = (page: number): void => {
        for (; done < page;) {
          const count = Math.min(page - done, zeros.length / block.pageSize);
          hash.update(zeros.subarray(0, count * block.pageSize));
          done += count;
        }
      };
      for (const run of snapshot.presentRuns(block)) {
        zerosUpTo(run.start);
        while (done < run.end) {
          const count = Math.min(run.end - done, buffer.length / block.pageSize);
          const part = buffer.subarray(0, count * block.pageSize);
          snapshot.readPages(block, done, part);
          hash.update(part);
          done += count;
        }
      }
      zerosUpTo(block.pageCount);
      expect(hash.digest("hex"), block.name).toBe(facts.blocks[index]?.sha256);

      // The other way: everything through readPages, which fills in the zeros itself.
      expect(sha256Of(snapshot, block), block.name).toBe(facts.blocks[index]?.sha256);
    }
    snapshot.close();
  });

  test("shared memory that was left out is listed and cannot be read", async () => {
    const facts = mappedRamCorpus.find((file) => file.name === "q111-mr-pc-ignoreshared")!;
    const info = await snapshotInfo(corpusPath(facts));
    expect(info.ram.blocks[0]).toMatchObject({ name: "mem0", leftOut: true, guestAddress: "0x0" });
    expect(info.ram.blocks[0]).not.toHaveProperty("pages");
    const snapshot = await openSnapshot(corpusPath(facts));
    const block = snapshot.blocks[0]!;
    expect([...snapshot.presentRuns(block)]).toEqual([]);
    expect(() => snapshot.readPages(block, 0, new Uint8Array(4096))).toThrow(UsageError);
    snapshot.close();
  });

  test("a damaged tail still gives info, and openSnapshot refuses it", async () => {
    for (const name of ["trunc-vmdesc", "trunc-at-ram-end"]) {
      const file = corpus?.broken.find((broken) => broken.name === name);
      const info = await snapshotInfo(corpusPath(file!));
      expect(info.complete).toBe(false);
      expect(info.problem).toMatch(/\(offset \d+/);
      expect(info.ram.blocks).toHaveLength(6);
      await expect(openSnapshot(corpusPath(file!))).rejects.toThrow(FormatError);
    }
  });
});

describe("openSnapshot", () => {
  const workDir = useWorkDir();

  test("reads a file of ramport's own writer", async () => {
    const file = workDir.file("vm.snap");
    const { bytes, blocks } = buildSnapshot();
    writeFileSync(file, bytes);
    const info = await snapshotInfo(file);
    expect(info).toMatchObject({ machine: "test-1.0", capabilities: ["mapped-ram"], complete: true });
    expect(info.uuid).toBe("00010203-0405-0607-0809-0a0b0c0d0e0f");
    expect(info.sections.map(({ name, instance }) => [name, instance])).toEqual([
      ["ram", 0],
      ["cpu", 0],
      ["cpu", 1],
      ["old-device", 0],
    ]);
    const snapshot = await openSnapshot(file);
    for (const [index, block] of snapshot.blocks.entries()) {
      const memory = new Uint8Array(block.usedLength).fill(0xee);
      snapshot.readPages(block, 0, memory);
      expect(Buffer.compare(memory, blocks[index]!.memory)).toBe(0);
      expect(snapshot.countPresent(block)).toBe(blocks[index]!.present.size);
    }
    snapshot.close();
    snapshot.close();
    expect(() => snapshot.presentRuns(snapshot.blocks[0]!)).toThrow(UsageError);
  });

  test("finds a snapshot behind an offset, and says what to do without it", async () => {
    const offset = 12_288;
    const { bytes } = buildSnapshot(offset);
    const source = new MemorySource(bytes);
    expect(await snapshotInfo(source, { offset })).toMatchObject({ complete: true, streamOffset: offset });
    await expect(snapshotInfo(source)).rejects.toThrow(/give its offset/);
  });

  test("leaves a caller's file open", async () => {
    const source = new MemorySource(buildSnapshot().bytes);
    const snapshot = await openSnapshot(source);
    snapshot.close();
    expect(source.readAt(new Uint8Array(4), 0)).toBe(4);
  });

  test("refuses pages that are not there", async () => {
    const snapshot = await openSnapshot(new MemorySource(buildSnapshot().bytes));
    const block = snapshot.blocks[0]!;
    const page = new Uint8Array(4096);
    for (const first of [-1, 0.5, block.pageCount, Number.NaN]) {
      expect(() => snapshot.readPages(block, first, page)).toThrow(UsageError);
    }
    expect(() => snapshot.readPages(block, 0, new Uint8Array(100))).toThrow(UsageError);
  });

  test("refuses what is no snapshot", async () => {
    const cases: readonly (readonly [string, Uint8Array, string])[] = [
      ["empty", new Uint8Array(), "truncated"],
      ["text", new TextEncoder().encode("#!/bin/sh\n"), "malformed"],
      ["zeros", new Uint8Array(100_000), "malformed"],
      ["only the magic", new TextEncoder().encode("QEVM"), "truncated"],
    ];
    for (const [, bytes, code] of cases) {
      await expect(snapshotInfo(new MemorySource(bytes))).rejects.toMatchObject({ code });
    }
    await expect(snapshotInfo(workDir.file("nothing"))).rejects.toThrow(MachineError);
    await expect(snapshotInfo(workDir.path)).rejects.toThrow(/is a directory/);
    for (const offset of [-1, 0.5, Number.NaN]) {
      await expect(snapshotInfo(new MemorySource(new Uint8Array()), { offset })).rejects.toThrow(UsageError);
    }
  });
});
