import {
  chmodSync,
  copyFileSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";

import { ReadableFile } from "../../src/channels/index.js";
import { findStaleBytes, openMappedRam, readPageBitmap } from "../../src/engine/index.js";
import { CancelledError, FormatError, MachineError, UsageError } from "../../src/errors/index.js";
import { openSnapshot, sealSnapshot, verifySnapshot } from "../../src/snapshot/index.js";
import { corpus, corpusFile, corpusOffset, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { useWorkDir } from "../support/work-dir.js";
import { sha256Of } from "./block-hash.js";
import { buildSnapshot } from "./build-snapshot.js";

const workDir = useWorkDir();
const PAGE = 4096;
const LONG_AGO = new Date("2001-02-03T04:05:06Z");

/** A snapshot whose pages have old bytes behind some of their clear bits, and when it was last changed. */
function snapshotWithStaleBytes(offset = 0): { readonly path: string; readonly stale: readonly number[] } {
  const path = workDir.file("vm.ram");
  const bytes = buildSnapshot(offset).bytes.slice();
  writeFileSync(path, bytes);
  const file = ReadableFile.open(path);
  const [ram, rom] = openMappedRam(file, offset).blocks;
  file.close();
  // Single pages, neighbours, the last clear one of a block; of one page only its last byte.
  const stale = [3, 4, 62, 65, 128].map((page) => ram!.mapped!.pagesOffset + page * PAGE);
  for (const at of stale) bytes.fill(0xa5, at, at + PAGE);
  const last = rom!.mapped!.pagesOffset + 3 * PAGE - 1;
  bytes[last] = 1;
  writeFileSync(path, bytes);
  utimesSync(path, LONG_AGO, LONG_AGO);
  return { path, stale: [...stale, last - PAGE + 1] };
}

/** All bytes of clear pages, which have to be zero, and the others, which have to be as they were. */
function expectSealed(path: string, before: Uint8Array, offset = 0): void {
  const after = readFileSync(path);
  expect(after.length).toBe(before.length);
  const wanted = Buffer.from(before);
  const file = ReadableFile.open(path);
  for (const block of openMappedRam(file, offset).blocks) {
    const { pagesOffset } = block.mapped!;
    for (const { start, end } of readPageBitmap(file, block).clearRuns())
      wanted.fill(0, pagesOffset + start * PAGE, pagesOffset + end * PAGE);
  }
  file.close();
  expect(after.equals(wanted)).toBe(true);
  expect(statSync(path).mode & 0o222).toBe(0);
}

describe("sealSnapshot in place", () => {
  test.each([0, 8192])(
    "clears old bytes, touches no others, and makes it read-only; offset %i",
    async (offset) => {
      const { path, stale } = snapshotWithStaleBytes(offset);
      const before = readFileSync(path);
      expect(before[stale[0]!]).toBe(0xa5);
      const result = await sealSnapshot(path, { offset });
      expect(result).toMatchObject({ path, offset, machine: "test-1.0", pages: { normal: 8, zero: 125 } });
      expect(result.clearedBytes).toBeGreaterThanOrEqual(stale.length * PAGE);
      expectSealed(path, before, offset);
      expect((await verifySnapshot(path, { offset })).ok).toBe(true);
    },
  );

  test("sealed again, nothing changes: neither bytes nor the modification time", async () => {
    const { path } = snapshotWithStaleBytes();
    await sealSnapshot(path);
    utimesSync(path, LONG_AGO, LONG_AGO);
    const before = readFileSync(path);
    expect(await sealSnapshot(path)).toMatchObject({ clearedBytes: 0 });
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(statSync(path).mtime).toEqual(LONG_AGO);
  });

  test("a file without old bytes only becomes read-only", async () => {
    const path = workDir.file("vm.ram");
    writeFileSync(path, buildSnapshot().bytes);
    chmodSync(path, 0o664);
    utimesSync(path, LONG_AGO, LONG_AGO);
    expect(await sealSnapshot(path)).toMatchObject({ clearedBytes: 0 });
    expect(statSync(path).mtime).toEqual(LONG_AGO);
    expect(statSync(path).mode & 0o777).toBe(0o444);
  });

  test("a bitmap with bits behind its last page: refused, and the file is as it was", async () => {
    const { path } = snapshotWithStaleBytes();
    const bytes = readFileSync(path);
    const file = ReadableFile.open(path);
    const { bitmapOffset } = openMappedRam(file).blocks[0]!.mapped!;
    file.close();
    // Of 130 pages in 192 bits.
    bytes[bitmapOffset + 20] = 1;
    writeFileSync(path, bytes);
    await expect(sealSnapshot(path)).rejects.toThrow(/bits set behind its last page/);
    expect(readFileSync(path).equals(bytes)).toBe(true);
    expect(statSync(path).mode & 0o200).toBe(0o200);
  });

  test("a cancelled one leaves the file as it was", async () => {
    const { path } = snapshotWithStaleBytes();
    const before = readFileSync(path);
    await expect(sealSnapshot(path, { signal: AbortSignal.abort() })).rejects.toThrow(CancelledError);
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(statSync(path).mode & 0o200).toBe(0o200);
  });

  test("what is no snapshot, or not there", async () => {
    writeFileSync(workDir.file("text"), "a text that is no snapshot");
    await expect(sealSnapshot(workDir.file("text"))).rejects.toThrow(FormatError);
    await expect(sealSnapshot(workDir.file("nothing"))).rejects.toThrow(MachineError);
  });
});

describeWithCorpus("sealing what QEMU and libvirt wrote", () => {
  test.each(corpus?.files.filter(({ name }) => /mr-|sparse/.test(name)) ?? [])("$name", async (facts) => {
    const path = workDir.file("vm.ram");
    copyFileSync(corpusPath(facts), path);
    const before = readFileSync(path);
    const offset = corpusOffset(facts);
    const result = await sealSnapshot(path, { offset });
    // QEMU's own file of a running guest has such bytes.
    const stalePages = facts.blocks.reduce((sum, block) => sum + (block.stalePages ?? 0), 0);
    expect(result.clearedBytes >= stalePages * facts.targetPageSize).toBe(true);
    expect(result.clearedBytes > 0).toBe(stalePages > 0);
    const file = ReadableFile.open(path);
    expect(await findStaleBytes(file, openMappedRam(file, facts.streamOffset))).toBeUndefined();
    file.close();
    if (before.length < 64 << 20) expect((await verifySnapshot(path, { offset })).ok).toBe(true);
  });

  test("a stream has no fixed places: the hint says what to do, and that works", async () => {
    const stream = corpusPath(corpusFile("q100-pc-exec"));
    await expect(sealSnapshot(stream)).rejects.toThrow(/ramport seal FILE -o NEW/);
    const output = workDir.file("sealed.ram");
    const result = await sealSnapshot(stream, { output });
    expect(result).toMatchObject({ path: output, clearedBytes: 0 });
    expect(statSync(output).mode & 0o777).toBe(0o400);
    const snapshot = await openSnapshot(output);
    const hashes = snapshot.blocks.map((block) => [block.name, sha256Of(snapshot, block)]);
    expect(hashes).toEqual(corpusFile("q100-pc-exec").blocks.map(({ name, sha256 }) => [name, sha256]));
    snapshot.close();
    await expect(sealSnapshot(stream, { output })).rejects.toThrow(UsageError);
    expect(await sealSnapshot(output)).toMatchObject({ clearedBytes: 0 });
  });

  test("a compressed libvirt image becomes a sealed sparse one", async () => {
    const output = workDir.file("sealed.save");
    await sealSnapshot(corpusPath(corpusFile("lv113-zstd")), { output });
    expect(readFileSync(output).toString("latin1", 0, 16)).toBe("LibvirtQemudSave");
    expect(await sealSnapshot(output)).toMatchObject({ clearedBytes: 0 });
  });

  test("a failure leaves no new file", async () => {
    const broken = corpus!.broken.find(({ name }) => name === "trunc-vmdesc")!;
    const before = readdirSync(workDir.path);
    await expect(sealSnapshot(corpusPath(broken), { output: workDir.file("out") })).rejects.toThrow(
      FormatError,
    );
    expect(readdirSync(workDir.path)).toEqual(before);
  });
});
