import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from "node:fs";
import { describe, expect, test } from "vitest";

import type { TransferProgress } from "../../src/engine/index.js";
import { CancelledError, FormatError } from "../../src/errors/index.js";
import { snapshotInfo, verifySnapshot } from "../../src/snapshot/index.js";
import { bitmapBytes, ByteWriter, encodeConfiguration, encodeFileHeader } from "../../src/wire/index.js";
import {
  type BrokenCorpusFile,
  corpus,
  corpusPath,
  describeWithCorpus,
  mappedRamCorpus,
} from "../support/corpus.js";
import { buildSnapshot, buildTail, MemorySource } from "./build-snapshot.js";
import { cpuTimeMs } from "../support/cpu-time.js";
import { useWorkDir } from "../support/work-dir.js";

/** Damage that nothing in the file contradicts. */
const UNDETECTABLE: ReadonlyMap<string, string> = new Map([
  ["config-name-other-machine", "another machine type's name is as good a name"],
  ["page-bytes-flipped", "a mapped-ram file has no checksums"],
]);

const brokenMappedRam: readonly BrokenCorpusFile[] = (corpus?.broken ?? []).filter(
  (file) => file.base === "q100-mr-tiny",
);

describeWithCorpus("verify of QEMU's own mapped-ram files", () => {
  test.each(mappedRamCorpus)("$name is sound", async (facts) => {
    const result = await verifySnapshot(corpusPath(facts), { offset: facts.streamOffset });
    const stale = facts.blocks.reduce((sum, block) => sum + (block.stalePages ?? 0), 0);
    const empty = facts.blocks.every((block) => (block.bitsSet ?? 0) === 0);
    expect(result.problems.map(({ severity, code }) => `${severity} ${code}`)).toEqual([
      ...(stale > 0 ? ["warning stale-pages"] : []),
      ...(empty ? ["warning all-bitmaps-empty"] : []),
    ]);
    expect(result).toMatchObject({ ok: true, omittedProblems: 0, machine: facts.machine });
    expect(result.ram?.pages.stale).toBe(stale);
    for (const [index, block] of facts.blocks.entries()) {
      expect(result.ram?.blocks[index]?.pages?.stale).toBe(block.stalePages);
      expect(result.ram?.blocks[index]?.pages?.normal).toBe(block.bitsSet);
    }
  });

  test("the first stale page and their number are told", async () => {
    const facts = mappedRamCorpus.find((file) => file.name === "q100-mr-pc-dirty")!;
    const { problems } = await verifySnapshot(corpusPath(facts));
    expect(problems).toMatchObject([{ code: "stale-pages", block: "pc.ram", actual: 447 }]);
    expect(problems[0]!.offset! % 4096).toBe(0);
  });

  test.each(brokenMappedRam.filter((file) => !file.intact && !UNDETECTABLE.has(file.name)))(
    "$name is reported",
    async (file) => {
      const startMs = cpuTimeMs();
      const result = await verifySnapshot(corpusPath(file));
      expect(cpuTimeMs() - startMs).toBeLessThan(1000);
      expect(result.problems).not.toEqual([]);
      // A bit of a bitmap is as good as the other: only a hole of the file, or bytes left behind, make it doubtful.
      const doubtfulOnly = file.name.startsWith("bitmap-");
      expect(result.ok).toBe(doubtfulOnly);
      for (const problem of result.problems) expect(problem.message).toMatch(/\((offset|section)/);
      const info = await snapshotInfo(corpusPath(file)).catch((error: unknown) => error);
      if (info instanceof Error) expect(info).toBeInstanceOf(FormatError);
    },
  );

  test.each(brokenMappedRam.filter((file) => file.intact || UNDETECTABLE.has(file.name)))(
    "$name looks sound",
    async (file) => {
      expect(await verifySnapshot(corpusPath(file))).toMatchObject({ ok: true, problems: [] });
    },
  );
});

describe("verify", () => {
  const codesOf = async (bytes: Uint8Array): Promise<string[]> => {
    const { problems, ok } = await verifySnapshot(new MemorySource(bytes));
    expect(ok).toBe(problems.every(({ severity }) => severity === "warning"));
    return problems.map(({ code }) => code);
  };
  /** A built snapshot, changed. */
  const damaged = (change: (bytes: Buffer, ram: { bitmap: number; pages: number }) => void): Uint8Array => {
    const { bytes } = buildSnapshot();
    const buffer = Buffer.from(bytes);
    const header = buffer.indexOf("pc.ram") + 6 + 8;
    const bitmap = Number(buffer.readBigUInt64BE(header + 12));
    change(buffer, { bitmap, pages: Number(buffer.readBigUInt64BE(header + 20)) });
    return buffer;
  };

  test("a sound file has no problems", async () => {
    const result = await verifySnapshot(new MemorySource(buildSnapshot().bytes));
    expect(result).toMatchObject({
      ok: true,
      problems: [],
      sections: 4,
      ram: { pages: { total: 133, normal: 8, zero: 125, stale: 0 } },
    });
  });

  test("bits past the last page", async () => {
    const bytes = damaged((buffer, { bitmap }) => buffer.writeUInt8(0xff, bitmap + bitmapBytes(130) - 1));
    const { problems, ok } = await verifySnapshot(new MemorySource(bytes));
    expect(ok).toBe(false);
    expect(problems).toMatchObject([{ severity: "error", code: "tail-bits", block: "pc.ram", actual: 8 }]);
  });

  test("bytes under clear bits", async () => {
    const bytes = damaged((buffer, { pages }) => {
      for (const page of [5, 70, 128]) buffer.writeUInt8(1, pages + page * 4096 + 4095);
    });
    const { problems, ok } = await verifySnapshot(new MemorySource(bytes));
    expect(ok).toBe(true);
    expect(problems).toMatchObject([{ severity: "warning", code: "stale-pages", actual: 3 }]);
  });

  test("a writer that died: bitmaps never written", async () => {
    const { bytes } = buildSnapshot();
    const buffer = Buffer.from(bytes);
    for (const name of ["pc.ram", "rom"]) {
      const header = buffer.indexOf(`${String.fromCharCode(name.length)}${name}`) + 1 + name.length + 8;
      const bitmap = Number(buffer.readBigUInt64BE(header + 12));
      buffer.fill(0, bitmap, bitmap + 24);
    }
    // The first block's bitmap has three words, the second one's header stands far behind.
    expect(await codesOf(buffer)).toEqual(["stale-pages", "stale-pages", "all-bitmaps-empty"]);
  });

  test("trailing bytes, a missing and a cut description", async () => {
    const { bytes } = buildSnapshot();
    const tailBytes = buildTail().length;
    const description = Buffer.from(bytes).lastIndexOf('{"page_size"') - 5;
    expect(await codesOf(Buffer.concat([bytes, Buffer.alloc(100)]))).toEqual(["trailing-bytes"]);
    expect(await codesOf(bytes.subarray(0, description))).toEqual(["no-description"]);
    expect(await codesOf(bytes.subarray(0, bytes.length - 1))).toEqual(["truncated"]);
    expect(await codesOf(bytes.subarray(0, description - 1))).toContain("truncated");
    expect(await codesOf(bytes.subarray(0, bytes.length - tailBytes))).toContain("truncated");
  });

  test("a description that disagrees", async () => {
    const replaced = async (from: string, to: string): Promise<string[]> => {
      const text = Buffer.from(buildSnapshot().bytes).toString("latin1");
      const at = text.lastIndexOf(from);
      expect(at).toBeGreaterThan(0);
      expect(to.length).toBe(from.length);
      return codesOf(Buffer.from(text.slice(0, at) + to + text.slice(at + from.length), "latin1"));
    };
    expect(await replaced('"page_size":4096', '"page_size":8192')).toEqual(["inconsistent"]);
    expect(await replaced('"version":12', '"version":13')).toEqual(["inconsistent"]);
    expect(await replaced('"size":300', '"size":299')).toEqual(["malformed"]);
    expect(await replaced('"name":"cpu"', '"name":"gpu"')).toEqual(["inconsistent", "inconsistent"]);
    expect(await replaced('"instance_id":1', '"instance_id":0')).toEqual(["inconsistent", "inconsistent"]);
    expect(await replaced('"devices":[{', '"devices":[[')).toContain("malformed");
  });

  test("sections in another order than described, and one twice", async () => {
    const { bytes } = buildSnapshot();
    const buffer = Buffer.from(bytes);
    const swapped = Buffer.from(
      buffer.toString("latin1").replace('"instance_id":0', '"instance_id":9'),
      "latin1",
    );
    swapped.write('"instance_id":0', swapped.indexOf('"instance_id":1'), "latin1");
    swapped.write('"instance_id":1', swapped.indexOf('"instance_id":9'), "latin1");
    expect(await codesOf(swapped)).toEqual(["inconsistent"]);
    const twice = Buffer.from(buffer);
    const cpus = sectionsNamed(twice, "cpu");
    twice.writeUInt32BE(0, cpus[1]);
    expect(await codesOf(twice)).toContain("duplicate-section");
  });

  test("several things at once are all told", async () => {
    const bytes = damaged((buffer, { bitmap, pages }) => {
      buffer.writeUInt8(0xff, bitmap + bitmapBytes(130) - 1);
      buffer.writeUInt8(1, pages + 5 * 4096);
      const [, second] = sectionsNamed(buffer, "cpu");
      buffer.writeUInt32BE(13, second! + 4);
    });
    const codes = await codesOf(Buffer.concat([bytes, Buffer.from("tail")]));
    expect(codes.toSorted()).toEqual(["inconsistent", "stale-pages", "tail-bits", "trailing-bytes"]);
  });

  test("areas over each other", async () => {
    const moved = (offset: number): Uint8Array =>
      damaged((buffer) => {
        const header = buffer.indexOf("pc.ram") + 6 + 8;
        buffer.writeBigUInt64BE(BigInt(offset), header + 12);
      });
    for (const offset of [0, 1, (1 << 20) + 64, 2 << 20])
      expect(await codesOf(moved(offset))).toContain("overlap");
  });

  test("progress is told, and a signal stops it in the middle", async () => {
    class SlowSource extends MemorySource {
      override readAt(target: Uint8Array, position: number): number {
        const until = performance.now() + 60;
        while (performance.now() < until);
        return super.readAt(target, position);
      }
    }
    const source = new SlowSource(buildSnapshot().bytes);
    const controller = new AbortController();
    const told: TransferProgress[] = [];
    const verifying = verifySnapshot(source, {
      signal: controller.signal,
      onProgress: (progress) => {
        told.push(progress);
        controller.abort();
      },
    });
    await expect(verifying).rejects.toThrow(CancelledError);
    expect(told).toMatchObject([{ phase: "verifying", totalBytes: 133 * 4096 }]);
    await expect(verifySnapshot(source, { signal: AbortSignal.abort() })).rejects.toThrow(CancelledError);
  });
});

describe("verify of sparse files", () => {
  const workDir = useWorkDir();

  /** A file of one empty block and nothing behind it; most of it a hole. */
  const emptyGuest = (usedLength: number, sizeBytes: number): string => {
    const writer = new ByteWriter();
    encodeFileHeader(writer);
    encodeConfiguration(writer.u8(7), { machine: "huge", capabilities: ["mapped-ram"] });
    writer.u8(1).u32(1).idstr("ram").u32(0).u32(4);
    writer
      .u64(BigInt(usedLength) | 4n)
      .idstr("pc.ram")
      .u64(usedLength);
    const bitmap = writer.length + 28;
    const pages = Math.ceil((bitmap + bitmapBytes(usedLength / 4096)) / (1 << 20)) * (1 << 20);
    writer.u32(1).u64(4096).u64(bitmap).u64(pages);
    const file = workDir.file("vm.snap");
    const fd = openSync(file, "w");
    writeSync(fd, writer.finish(), 0, writer.length, 0);
    ftruncateSync(fd, Math.max(sizeBytes, pages + usedLength));
    const end = new ByteWriter().u64(16).u8(0x7e).u32(1).u8(3).u32(1).u64(16).u8(0x7e).u32(1).u8(0).finish();
    writeSync(fd, end, 0, end.length, pages + usedLength);
    closeSync(fd);
    return file;
  };

  test("a terabyte of nothing costs next to nothing", async () => {
    const file = emptyGuest(2 ** 40, 0);
    const before = process.memoryUsage().rss;
    const startMs = cpuTimeMs();
    const result = await verifySnapshot(file);
    expect(cpuTimeMs() - startMs).toBeLessThan(1000);
    expect(process.memoryUsage().rss - before).toBeLessThan(200 * 2 ** 20);
    expect(result.ok).toBe(true);
    expect(result.problems.map(({ code }) => code).toSorted()).toEqual([
      "all-bitmaps-empty",
      "no-description",
    ]);
    const info = await snapshotInfo(file);
    expect(info.ram.pages).toEqual({ total: 2 ** 28, normal: 0, zero: 2 ** 28 });
    expect(info).toMatchObject({ complete: false });
  });

  test("more pages than any guest has are refused", async () => {
    const writer = new ByteWriter();
    encodeFileHeader(writer);
    encodeConfiguration(writer.u8(7), { machine: "huge", capabilities: ["mapped-ram"] });
    const usedLength = 2 ** 42;
    writer.u8(1).u32(1).idstr("ram").u32(0).u32(4);
    writer
      .u64(BigInt(usedLength) | 4n)
      .idstr("pc.ram")
      .u64(usedLength);
    writer
      .u32(1)
      .u64(256)
      .u64(2 ** 12)
      .u64(2 ** 20);
    const file = workDir.file("vm.snap");
    writeFileSync(file, writer.finish());
    const fd = openSync(file, "r+");
    ftruncateSync(fd, 2 ** 43);
    closeSync(fd);
    await expect(snapshotInfo(file)).rejects.toMatchObject({
      code: "limit-exceeded",
      data: { block: "pc.ram" },
    });
    const { ok, problems } = await verifySnapshot(file);
    expect(ok).toBe(false);
    expect(problems.at(-1)).toMatchObject({ code: "limit-exceeded" });
  });
});

/** Offsets behind the names of FULL sections of that name: where instance and version stand. */
function sectionsNamed(buffer: Buffer, name: string): number[] {
  const found: number[] = [];
  const needle = Buffer.concat([Buffer.of(name.length), Buffer.from(name)]);
  for (let at = buffer.indexOf(needle); at >= 0; at = buffer.indexOf(needle, at + 1)) {
    if (buffer[at - 5] === 4) found.push(at + needle.length);
  }
  return found;
}
