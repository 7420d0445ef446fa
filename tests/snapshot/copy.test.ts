import {
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";

import { describe, expect, test } from "vitest";

import { CancelledError, FormatError, UsageError } from "../../src/errors/index.js";
import { copySnapshot } from "../../src/snapshot/index.js";
import { corpus, corpusOffset, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { useWorkDir } from "../support/work-dir.js";
import { buildSnapshot } from "./build-snapshot.js";

const workDir = useWorkDir();

describeWithCorpus("copies of what QEMU and libvirt wrote", () => {
  test.each(corpus?.files ?? [])("$name", async (facts) => {
    const source = corpusPath(facts);
    const result = await copySnapshot(source, workDir.file("copy"), { offset: corpusOffset(facts) });
    expect(result).toMatchObject({ bytes: facts.bytes, verified: true, snapshotOk: true });
    expect(readFileSync(result.path).equals(readFileSync(source))).toBe(true);
    expect(result.allocatedBytes.copy).toBeLessThanOrEqual(result.allocatedBytes.source + (64 << 10));
  });

  test("a damaged file is copied as it is, and called so", async () => {
    const broken = corpus!.broken.find(({ name }) => name === "trunc-vmdesc")!;
    const result = await copySnapshot(corpusPath(broken), workDir.file("copy"));
    expect(result).toMatchObject({ verified: true, snapshotOk: false, bytes: broken.bytes });
  });
});

describe("copySnapshot", () => {
  test("zeros that were written become holes, and a hole at the end stays", async () => {
    const source = workDir.file("in");
    const fd = openSync(source, "w");
    const MIB = 1 << 20;
    writeSync(fd, Buffer.alloc(4 * MIB), 0, 4 * MIB, 0);
    writeSync(fd, "in the middle", 2 * MIB + 5);
    writeSync(fd, Buffer.alloc(100, 1), 0, 100, 9 * MIB + 4000);
    ftruncateSync(fd, 20 * MIB + 1);
    const { bytes, allocatedBytes, snapshotOk } = await copySnapshot(source, workDir.file("out"));
    expect(bytes).toBe(20 * MIB + 1);
    expect(snapshotOk).toBe(false);
    expect(readFileSync(workDir.file("out")).equals(readFileSync(source))).toBe(true);
    expect(allocatedBytes.copy).toBeLessThanOrEqual(64 << 10);
    expect(statSync(workDir.file("out")).mode & 0o777).toBe(0o600);
  });

  test("an empty file", async () => {
    writeFileSync(workDir.file("in"), "");
    const result = await copySnapshot(workDir.file("in"), workDir.file("out"), { verify: false });
    expect(result).toMatchObject({ bytes: 0, verified: false });
    expect(result).not.toHaveProperty("snapshotOk");
  });

  test("what is impossible, and what is cancelled, leaves nothing", async () => {
    const source = workDir.file("in");
    writeFileSync(source, buildSnapshot().bytes);
    writeFileSync(workDir.file("out"), "mine");
    await expect(copySnapshot(source, workDir.file("out"))).rejects.toThrow(UsageError);
    await expect(copySnapshot(workDir.path, workDir.file("other"))).rejects.toThrow(FormatError);
    const controller = new AbortController();
    const done = copySnapshot(source, workDir.file("other"), { signal: controller.signal });
    controller.abort();
    await expect(done).rejects.toThrow(CancelledError);
    expect(readdirSync(workDir.path).sort()).toEqual(["in", "out"]);
    expect(readFileSync(workDir.file("out"), "utf8")).toBe("mine");
  });

  test("a file that changes meanwhile is no copy", async () => {
    const source = workDir.file("in");
    writeFileSync(source, Buffer.alloc(16 << 20, 7));
    const copying = copySnapshot(source, workDir.file("out"));
    const outcome = copying.catch((error: unknown) => error);
    const written = (): number =>
      readdirSync(workDir.path)
        .filter((name) => name.endsWith(".part"))
        .reduce((sum, name) => sum + statSync(workDir.file(name)).size, 0);
    // Each MiB takes the copy a turn of the event loop.
    while (written() < 2 << 20) await nextTurn();
    writeSync(openSync(source, "r+"), "other", 99);
    expect(await outcome).toMatchObject({ code: "io", data: { offset: 0 } });
    expect(readdirSync(workDir.path)).toEqual(["in"]);
  });
});
