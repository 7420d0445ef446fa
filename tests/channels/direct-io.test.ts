/**
 * Files whose large transfers go past the page cache. The work folder's file system has to have O_DIRECT; where it has not,
 * only the tests of that are left.
 */

import { spawnSync } from "node:child_process";
import fs, { constants } from "node:fs";
import process from "node:process";

import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";

import { AlignedSlots, SLOT_BYTES } from "../../src/channels/aligned-slots.js";
import { directAlignment } from "../../src/channels/direct-alignment.js";
import { descriptorStatus } from "../../src/channels/descriptor.js";
import {
  openIncoming,
  openOutgoing,
  OutputFile,
  parseMigrationUri,
  ReadableFile,
} from "../../src/channels/index.js";
import { MachineError, UsageError } from "../../src/errors/index.js";
import { hasDirectIo, watchTransfers } from "../support/direct-io.js";
import { Random } from "../support/random.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const MIB = 1 << 20;
const required = { directIo: "required" } as const;

afterEach(() => void vi.restoreAllMocks());

/** Bytes that differ from place to place. */
function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at + 4 <= length; at += 4)
    bytes.writeUInt32LE(Math.imul(at + seed, 2_654_435_761) >>> 0, at);
  return bytes;
}

/** Memory that begins at a page border, as a guest's in WebAssembly does. */
function aligned(length: number): Uint8Array {
  const slots = new AlignedSlots();
  expect(length).toBeLessThanOrEqual(SLOT_BYTES);
  return slots.take().subarray(0, length);
}

describe.skipIf(!hasDirectIo())("where the file system has direct I/O", () => {
  test.each(["now", "beside this thread"])("any piece of a file reads as without it, %s", async (how) => {
    // No multiple of anything, so that the end has to be read through the cache.
    const content = pattern(3 * MIB + 1234);
    fs.writeFileSync(workDir.file("in"), content);
    const file = ReadableFile.open(workDir.file("in"), required);
    onTestFinished(() => file.close());
    const random = new Random(7);
    for (let round = 0; round < 60; round++) {
      const position = random.below(content.length + 5000);
      const at = random.below(3) * 8;
      const target = new Uint8Array(at + random.below(2 * MIB)).subarray(at);
      const count = how === "now" ? file.readAt(target, position) : await file.startRead(target, position);
      expect(count).toBe(Math.max(0, Math.min(target.length, content.length - position)));
      expect(Buffer.compare(target.subarray(0, count), content.subarray(position, position + count))).toBe(0);
    }
  });

  test.each(["now", "beside this thread"])("any piece is written as without it, %s", async (how) => {
    const file = OutputFile.create(workDir.file("out"), required);
    onTestFinished(() => file.discard());
    const expected = Buffer.alloc(3 * MIB + 1234);
    file.truncate(expected.length);
    const random = new Random(8);
    for (let round = 0; round < 60; round++) {
      const position = random.below(expected.length);
      const length = Math.min(random.below(2 * MIB), expected.length - position);
      const bytes = pattern(length + 8, round).subarray(8);
      if (how === "now") file.writeAt(bytes, 0, length, position);
      else await file.startWrite(bytes, position);
      bytes.copy(expected, position);
      // Read back by both ways: neither shows old bytes.
      const read = Buffer.alloc(expected.length);
      fs.readSync(file.fd, read, 0, read.length, 0);
      expect(read.compare(expected)).toBe(0);
      expect(file.readAt(read, 0)).toBe(expected.length);
      expect(read.compare(expected)).toBe(0);
    }
    await file.commit();
    expect(fs.readFileSync(workDir.file("out")).compare(expected)).toBe(0);
  });

  test("what is aligned goes past the cache as it is; heads, tails and small pieces do not", async () => {
    const file = OutputFile.create(workDir.file("out"), required);
    onTestFinished(() => file.discard());
    const block = directAlignment(file.fd);
    const memory = aligned(MIB);
    const seen = watchTransfers();
    await file.startWrite(memory, 0);
    expect(seen).toEqual({ direct: [MIB], buffered: [] });
    await file.startWrite(memory.subarray(0, MIB - 100), MIB);
    expect(seen).toEqual({ direct: [MIB, MIB - block], buffered: [block - 100] });
    file.writeAt(memory, 0, block, 0);
    expect(seen.buffered.at(-1)).toBe(block);
    file.readAt(memory.subarray(0, MIB - block), 100);
    // The head is as far from a border as the memory behind it is: that is copied.
    expect(seen.direct.at(-1)).toBe(MIB - 2 * block);
  });

  test("memory that is not aligned is tried once, and then copied", async () => {
    const file = OutputFile.create(workDir.file("out"), required);
    onTestFinished(() => file.discard());
    const seen = watchTransfers();
    // Of one buffer; 8 bytes behind any border that a file system asks for.
    const memory = new Uint8Array(aligned(MIB).buffer, 8, 2 * MIB);
    await file.startWrite(memory, 0);
    const first = seen.direct.length;
    await file.startWrite(memory, 0);
    const refused = first === 1 ? 0 : 1;
    expect(seen.direct.slice(0, first).reduce((sum, length) => sum + length, 0)).toBe(
      (2 + 2 * refused) * MIB,
    );
    expect(seen.direct.slice(first).reduce((sum, length) => sum + length, 0)).toBe(2 * MIB);
    expect(seen.buffered).toEqual([]);
  });

  test("the file is closed only when what runs past the cache has ended", async () => {
    fs.writeFileSync(workDir.file("in"), pattern(4 * MIB));
    const before = fs.readdirSync("/proc/self/fd").length;
    const file = ReadableFile.open(workDir.file("in"), required);
    const targets = [0, 1, 2, 3].map(() => new Uint8Array(MIB));
    const reading = targets.map((target, index) => file.startRead(target, index * MIB));
    file.close();
    expect(await Promise.all(reading)).toEqual([MIB, MIB, MIB, MIB]);
    expect(Buffer.concat(targets).compare(pattern(4 * MIB))).toBe(0);
    expect(fs.readdirSync("/proc/self/fd").length).toBe(before);
  });

  test("a migration into and from file: URIs with an offset", async () => {
    fs.writeFileSync(workDir.file("f"), "header");
    const { file, sink } = await openOutgoing(
      parseMigrationUri(`file:${workDir.file("f")},offset=6`),
      required,
    );
    const content = pattern(MIB);
    await file!.startWrite(content, 8192);
    await file!.sync();
    await sink.close();
    const incoming = await openIncoming(parseMigrationUri(`file:${workDir.file("f")},offset=6`), required);
    const target = Buffer.alloc(MIB);
    expect(await incoming.file!.startRead(target, 8192)).toBe(MIB);
    expect(target.compare(content)).toBe(0);
    await incoming.source.close();
    expect(fs.readFileSync(workDir.file("f"), "latin1").slice(0, 6)).toBe("header");
  });

  test("discarded while it is written past the cache, nothing of a file stays", async () => {
    const { file } = await openOutgoing(parseMigrationUri(`file:${workDir.file("f")}`), required);
    const writing = file!.startWrite(pattern(4 * MIB), 0);
    await file!.discard();
    await writing;
    expect(fs.statSync(workDir.file("f")).size).toBe(0);
  });

  describe("descriptor sets", () => {
    function opened(name: string, flags: number): number {
      const fd = fs.openSync(workDir.file(name), flags | constants.O_CREAT, 0o600);
      onTestFinished(() => fs.closeSync(fd));
      return fd;
    }

    test("the one with O_DIRECT takes what is large, the other the rest, and both stay open", async () => {
      const direct = opened("f", constants.O_WRONLY | constants.O_DIRECT);
      const buffered = opened("f", constants.O_WRONLY);
      // Whichever comes first.
      for (const set of [
        [direct, buffered],
        [buffered, direct],
      ]) {
        const descriptorSets = new Map([[4, set]]);
        const { file, sink } = await openOutgoing(parseMigrationUri("file:/dev/fdset/4"), {
          descriptorSets,
          ...required,
        });
        const seen = watchTransfers();
        await file!.startWrite(pattern(MIB), 4096);
        file!.writeAt(Buffer.from("head"), 0, 4, 0);
        expect(seen.direct.at(-1)).toBe(MIB);
        expect(seen.buffered).toEqual([4]);
        vi.restoreAllMocks();
        await sink.end();
        await sink.close();
        expect(descriptorStatus(direct)?.isDirect).toBe(true);
        expect(descriptorStatus(buffered)?.isDirect).toBe(false);
        const written = fs.readFileSync(workDir.file("f"));
        expect(written.toString("latin1", 0, 4)).toBe("head");
        expect(written.subarray(4096).compare(pattern(MIB))).toBe(0);
      }
    });

    test("one with O_DIRECT alone cannot take metadata, and one without is not enough where it is required", async () => {
      const sets = new Map([
        [1, [opened("f", constants.O_RDONLY | constants.O_DIRECT)]],
        [2, [opened("f", constants.O_RDONLY)]],
      ]);
      const open = (set: number, directIo: "off" | "required" | "auto"): Promise<unknown> =>
        openIncoming(parseMigrationUri(`file:/dev/fdset/${set}`), { descriptorSets: sets, directIo });
      await expect(open(1, "off")).rejects.toThrow(/open for reading; add one/);
      await expect(open(2, "required")).rejects.toThrow(/open for reading with O_DIRECT; add a second one/);
      await expect(open(2, "required")).rejects.toBeInstanceOf(UsageError);
      await expect(open(2, "auto")).resolves.toBeDefined();
    });
  });
});

describe("where it is not to be had", () => {
  /** Opening with O_DIRECT fails as a file system without it makes it fail. */
  function refuse(code: string): void {
    const original = fs.openSync;
    vi.spyOn(fs, "openSync").mockImplementation((path, flags, mode) => {
      if (typeof flags === "number" && (flags & constants.O_DIRECT) !== 0) {
        throw Object.assign(new Error(code), { code });
      }
      return original(path, flags, mode);
    });
  }

  test.each([
    ["EINVAL", /its file system has no direct I\/O/],
    ["EACCES", /cannot be opened a second time \(EACCES\)/],
  ])("%s: a clear message, nothing left open or behind; auto goes without", async (code, message) => {
    fs.writeFileSync(workDir.file("in"), pattern(MIB));
    const before = fs.readdirSync("/proc/self/fd").length;
    refuse(code);
    expect(() => ReadableFile.open(workDir.file("in"), required)).toThrow(message);
    expect(() => OutputFile.create(workDir.file("out"), required)).toThrow(message);
    const uri = parseMigrationUri(`file:${workDir.file("in")}`);
    await expect(openIncoming(uri, required)).rejects.toThrow(MachineError);
    await expect(openIncoming(uri, required)).rejects.toThrow(message);
    await expect(openOutgoing(parseMigrationUri(`file:${workDir.file("new")}`), required)).rejects.toThrow(
      message,
    );
    expect(fs.readdirSync("/proc/self/fd").length).toBe(before);
    expect(fs.readdirSync(workDir.path).filter((name) => name.startsWith("."))).toEqual([]);
    const file = ReadableFile.open(workDir.file("in"), { directIo: "auto" });
    const target = Buffer.alloc(MIB);
    expect(await file.startRead(target, 0)).toBe(MIB);
    expect(target.compare(pattern(MIB))).toBe(0);
    file.close();
  });

  const isRoot = process.getuid?.() === 0;
  test.skipIf(!isRoot)("a real file system without it", ({ skip }) => {
    const folder = workDir.file("ram");
    fs.mkdirSync(folder);
    if (spawnSync("mount", ["-t", "ramfs", "none", folder]).status !== 0)
      skip("this user may not mount ramfs");
    // Before the work folder is removed.
    try {
      fs.writeFileSync(`${folder}/in`, "x");
      expect(() => ReadableFile.open(`${folder}/in`, required)).toThrow(/its file system has no direct I\/O/);
      const file = ReadableFile.open(`${folder}/in`, { directIo: "auto" });
      expect(file.readAt(Buffer.alloc(2), 0)).toBe(1);
      file.close();
    } finally {
      spawnSync("umount", ["-l", folder]);
    }
  });
});
