import { createHash } from "node:crypto";
import {
  copyFileSync,
  linkSync,
  symlinkSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { openIncoming } from "../../src/channels/index.js";
import { CancelledError, FormatError, UsageError } from "../../src/errors/index.js";
import { blockFileName, extractBlocks, type ExtractResult } from "../../src/snapshot/index.js";
import {
  corpus,
  type CorpusFile,
  corpusFile,
  corpusOffset,
  corpusPath,
  describeWithCorpus,
} from "../support/corpus.js";
import { buildStream } from "../support/stream-builder.js";
import { useWorkDir } from "../support/work-dir.js";
import { buildSnapshot } from "./build-snapshot.js";

const workDir = useWorkDir();
const PAGE = 4096;

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** What is in the files must be what the index knows of the stopped guest. */
function expectBlocks(result: ExtractResult, facts: CorpusFile): void {
  const { machine, blocks, leftOut } = result;
  if (facts.machine !== "") expect(machine).toBe(facts.machine);
  const expected = facts.blocks.filter(({ name }) => !leftOut.includes(name));
  expect(blocks.map(({ name }) => name)).toEqual(expected.map(({ name }) => name));
  for (const [index, block] of blocks.entries()) {
    expect(block.bytes, block.name).toBe(expected[index]!.usedLength);
    expect(sha256(readFileSync(block.path)), block.name).toBe(expected[index]!.sha256);
  }
}

describeWithCorpus("extracting what QEMU and libvirt wrote", () => {
  const files = corpus?.files ?? [];
  test.each(files)("$name: each block is the guest's", async (facts) => {
    const folder = workDir.file("blocks");
    const result = await extractBlocks(corpusPath(facts), { folder }, { offset: corpusOffset(facts) });
    expectBlocks(result, facts);
    expect(result.leftOut).toEqual(facts.name.includes("ignoreshared") ? ["mem0"] : []);
    expect(readdirSync(folder).map(decodeURIComponent).sort()).toEqual(
      result.blocks.map(({ name }) => name).sort(),
    );
  });

  test.each([
    "q72-pc-xbzrle-dirty",
    "q72-pc-compress-dirty",
    "q72-arm-microbit-exec",
    "q100-bgsnapshot",
    "q100-or1k-or1k-sim-exec",
    "q100-pc-file-offset",
    "q100-pc-ignoreshared",
    "q111-pc-exec-dirty",
  ])("%s from a channel, in one pass", async (name) => {
    const facts = corpusFile(name);
    const { source } = await openIncoming({
      kind: "file",
      path: corpusPath(facts),
      offset: facts.streamOffset,
    });
    const result = await extractBlocks(source, { folder: workDir.file("blocks") });
    await source.close();
    expectBlocks(result, facts);
  });

  test("one block alone, with its hash", async () => {
    for (const name of ["q100-mr-pc", "q72-pc-xbzrle-dirty", "q72-pc-compress-dirty", "lv113-zstd"]) {
      const facts = corpusFile(name);
      const { usedLength: bytes, sha256: expected } = facts.blocks[0]!;
      const path = workDir.file(name);
      const result = await extractBlocks(corpusPath(facts), { block: "pc.ram", path }, { sha256: true });
      expect(result.blocks).toMatchObject([{ name: "pc.ram", path, bytes, sha256: expected }]);
      expect(sha256(readFileSync(path))).toBe(expected);
      expect(statSync(path).mode & 0o777).toBe(0o600);
    }
    expect(readdirSync(workDir.path)).toHaveLength(4);
  });

  test("no block's file takes the place of the snapshot, by whatever name", async () => {
    const snapshot = workDir.file("pc.ram");
    copyFileSync(corpusPath(corpusFile("q100-tiny-exec")), snapshot);
    symlinkSync("pc.ram", workDir.file("link"));
    linkSync(snapshot, workDir.file("second"));
    const before = sha256(readFileSync(snapshot));
    const targets = [
      { folder: workDir.path },
      ...["pc.ram", "link", "second"].map((name) => ({ block: "pc.ram", path: workDir.file(name) })),
    ];
    for (const target of targets) {
      const extracting = extractBlocks(snapshot, target, { replace: true });
      await expect(extracting).rejects.toThrow(/would replace the snapshot itself/);
    }
    expect(sha256(readFileSync(snapshot))).toBe(before);
    expect(readdirSync(workDir.path).sort()).toEqual(["link", "pc.ram", "second"]);
  });

  test("pages without content take no space", async () => {
    for (const name of ["q111-mr-aarch64-virt", "q100-ppc64-pseries-exec", "q111-pc-exec-dirty"]) {
      const { blocks } = await extractBlocks(corpusPath(corpusFile(name)), { folder: workDir.file(name) });
      const largest = blocks.toSorted((a, b) => b.bytes - a.bytes)[0]!;
      expect(largest.allocatedBytes, name).toBeLessThan(largest.bytes / 2);
      // Not the same: the file system may take a block more when it writes them out.
      const difference = Math.abs(statSync(largest.path).blocks * 512 - largest.allocatedBytes);
      expect(difference, name).toBeLessThan(64 << 10);
    }
  });

  test("a block that was left out is said to be", async () => {
    for (const name of ["q111-mr-pc-ignoreshared", "q100-pc-ignoreshared"]) {
      const path = workDir.file("mem0");
      const failure = extractBlocks(corpusPath(corpusFile(name)), { block: "mem0", path });
      await expect(failure).rejects.toThrow(/left out/);
      await expect(failure).rejects.toThrow(UsageError);
    }
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test.each(corpus?.broken.filter(({ name }) => name.startsWith("classic-")) ?? [])(
    "$name leaves nothing",
    async (facts) => {
      const failure = extractBlocks(corpusPath(facts), { folder: workDir.file("blocks") });
      await expect(failure).rejects.toThrow(FormatError);
      expect(readdirSync(workDir.path)).toEqual([]);
    },
  );
});

describe("extractBlocks", () => {
  test("later pages win, and what became zero is a hole", async () => {
    const stream = workDir.file("vm.stream");
    const pages = [
      ...Array.from({ length: 64 }, (_, page) => ({ block: "pc.ram", page, fill: 7 })),
      { block: "rom", page: 1, fill: 5 },
      ...Array.from({ length: 60 }, (_, page) => ({ block: "pc.ram", page, fill: 0 })),
      { block: "pc.ram", page: 62, fill: 9 },
    ];
    const blocks = [
      ["pc.ram", 64],
      ["rom", 3],
    ] as const;
    writeFileSync(stream, buildStream({ blocks, pages }).bytes);
    const path = workDir.file("pc.ram");
    const result = await extractBlocks(stream, { block: "pc.ram", path });
    const fills = Array.from({ length: 64 }, (_, page) => readFileSync(path)[page * PAGE]);
    expect(fills).toEqual([...new Array<number>(60).fill(0), 7, 7, 9, 7]);
    expect(result.blocks[0]!.bytes).toBe(64 * PAGE);
    expect(result.blocks[0]!.allocatedBytes).toBeLessThan(16 * PAGE);
  });

  test("a mapped-ram file at an offset, pages as they are", async () => {
    const file = workDir.file("vm.ram");
    const { bytes, blocks } = buildSnapshot(8192);
    writeFileSync(file, bytes);
    const { blocks: written } = await extractBlocks(
      file,
      { folder: workDir.file("out") },
      { offset: 8192, sha256: true },
    );
    for (const [index, { memory }] of blocks.entries()) {
      expect(written[index]!.sha256).toBe(sha256(memory));
      expect(readFileSync(written[index]!.path).equals(memory)).toBe(true);
    }
  });

  test("a file that exists is replaced only when asked to; then all of them or none", async () => {
    const file = workDir.file("vm.ram");
    writeFileSync(file, buildSnapshot().bytes);
    const folder = workDir.file("out");
    mkdirSync(folder);
    writeFileSync(`${folder}/rom`, "precious");
    await expect(extractBlocks(file, { folder })).rejects.toThrow(/exists already/);
    expect(readdirSync(folder)).toEqual(["rom"]);
    expect(readFileSync(`${folder}/rom`, "utf8")).toBe("precious");
    await extractBlocks(file, { folder }, { replace: true });
    expect(readdirSync(folder).sort()).toEqual(["pc.ram", "rom"]);
  });

  test("no such block", async () => {
    const file = workDir.file("vm.ram");
    writeFileSync(file, buildSnapshot().bytes);
    const failure = extractBlocks(file, { block: "pc.rom", path: workDir.file("out") });
    await expect(failure).rejects.toThrow(/no RAM block of this name.*pc\.rom/);
    expect(existsSync(workDir.file("out"))).toBe(false);
  });

  test("cancelling leaves nothing, not even the folder", async () => {
    const file = workDir.file("vm.ram");
    writeFileSync(file, buildSnapshot().bytes);
    for (const sha256 of [false, true]) {
      const controller = new AbortController();
      const failure = extractBlocks(
        file,
        { folder: workDir.file("out") },
        { sha256, signal: controller.signal },
      );
      setImmediate(() => controller.abort());
      await expect(failure).rejects.toThrow(CancelledError);
      expect(readdirSync(workDir.path)).toEqual(["vm.ram"]);
    }
  });
});

describe("blockFileName", () => {
  test("names of QEMU's", () => {
    expect(blockFileName("pc.ram")).toBe("pc.ram");
    expect(blockFileName("/rom@etc/acpi/tables")).toBe("%2From@etc%2Facpi%2Ftables");
    expect(blockFileName("0000:00:02.0/vga.vram")).toBe("0000%3A00%3A02.0%2Fvga.vram");
    expect(blockFileName("..")).toBe("%2E.");
    expect(blockFileName("-rf")).toBe("%2Drf");
    expect(() => blockFileName("")).toThrow(FormatError);
    expect(() => blockFileName("/".repeat(100))).toThrow(FormatError);
  });

  test("is reversible and safe for any name", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }), (name) => {
        const encoded = encodeLength(name) > 240 ? undefined : blockFileName(name);
        if (encoded === undefined) return;
        expect(encoded).toMatch(/^[A-Za-z0-9_@%][A-Za-z0-9_@.%-]*$/);
        expect(decodeURIComponent(encoded)).toBe(name);
      }),
    );
  });
});

function encodeLength(name: string): number {
  return Buffer.byteLength(name) * 3;
}
