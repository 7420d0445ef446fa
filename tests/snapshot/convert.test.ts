import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { ReadableFile } from "../../src/channels/index.js";
import { CancelledError, FormatError, UsageError } from "../../src/errors/index.js";
import {
  type ConvertOptions,
  convertSnapshot,
  openSnapshot,
  type Snapshot,
  type SnapshotFormat,
  verifySnapshot,
} from "../../src/snapshot/index.js";
import { sourceOf } from "../support/byte-channels.js";
import {
  corpus,
  type CorpusFile,
  corpusFile,
  corpusOffset,
  corpusPath,
  describeWithCorpus,
  mappedRamCorpus,
} from "../support/corpus.js";
import { buildStream } from "../support/stream-builder.js";
import { useWorkDir } from "../support/work-dir.js";
import { sha256Of } from "./block-hash.js";
import { buildSnapshot } from "./build-snapshot.js";

const workDir = useWorkDir();
const FORMATS = ["mapped-ram", "stream"] as const;

async function convertCorpus(
  facts: CorpusFile,
  to: SnapshotFormat,
  name = `out-${to}`,
  options: Partial<ConvertOptions> = {},
): Promise<string> {
  const file = workDir.file(name);
  await convertSnapshot(corpusPath(facts), file, { offset: corpusOffset(facts), to, ...options });
  return file;
}

/** Device sections as they stand in the file; without bytes where the stream is packed. */
function sectionsOf(path: string, snapshot: Snapshot, packed: boolean): unknown[] {
  const file = ReadableFile.open(path);
  try {
    return snapshot.sections
      .filter(({ iterative }) => !iterative)
      .map(({ id, name, instance, version, offset, length }) => {
        const bytes = Buffer.alloc(packed ? 0 : length);
        file.readAt(bytes, offset);
        return [id, name, instance, version, length, bytes.toString("base64")];
      });
  } finally {
    file.close();
  }
}

describeWithCorpus("converting what QEMU and libvirt wrote", () => {
  const files = corpus?.files ?? [];

  test.each(FORMATS.flatMap((to) => files.map((facts) => ({ to, facts, name: facts.name }))))(
    "$name to $to",
    async ({ facts, to }) => {
      const result = await convertSnapshot(corpusPath(facts), workDir.file("out"), {
        offset: corpusOffset(facts),
        to,
      });
      expect(result).toMatchObject({
        from: { container: facts.container, format: facts.format },
        to: { container: "qemu", format: to },
        machine: facts.machine,
        streamOffset: 0,
      });
      const original = await openSnapshot(corpusPath(facts), { offset: corpusOffset(facts) });
      const converted = await openSnapshot(result.path);
      const others = facts.capabilities.filter((name) => name !== "mapped-ram");
      expect(converted.format).toBe(to);
      expect(converted.configuration).toEqual({
        ...original.configuration,
        capabilities: to === "mapped-ram" ? [...others, "mapped-ram"] : others,
      });
      expect(converted.blocks.map(({ name, usedLength }) => [name, usedLength])).toEqual(
        facts.blocks.map(({ name, usedLength }) => [name, usedLength]),
      );
      for (const [index, block] of converted.blocks.entries()) {
        expect(block.leftOut).toBe(original.blocks[index]!.leftOut);
        expect(block.guestAddress).toBe(original.blocks[index]!.guestAddress);
        expect(block.pageSize).toBe(facts.targetPageSize);
        if (block.leftOut) continue;
        expect(sha256Of(converted, block), block.name).toBe(facts.blocks[index]!.sha256);
      }
      const packed = result.from.compression !== undefined;
      expect(sectionsOf(result.path, converted, packed)).toEqual(
        sectionsOf(corpusPath(facts), original, packed),
      );
      original.close();
      converted.close();
      const { ok, problems } = await verifySnapshot(result.path);
      expect(ok).toBe(true);
      const harmless = ["all-bitmaps-empty", "duplicate-section", "no-description"];
      expect(problems.map(({ code }) => code).filter((code) => !harmless.includes(code))).toEqual([]);
    },
  );

  // Saved live or with several channels: more than one part of RAM, and stale bytes.
  const notCanonical = ["q100-mr-pc-dirty", "q100-mr-pc-multifd4-directio"];

  test.each(mappedRamCorpus)("$name: anew, and there and back through a stream", async (facts) => {
    const original = readFileSync(corpusPath(facts));
    const options = { outputOffset: facts.streamOffset };
    const anew = readFileSync(await convertCorpus(facts, "mapped-ram", "anew", options));
    expect(anew.equals(original)).toBe(!notCanonical.includes(facts.name));
    const stream = await convertCorpus(facts, "stream");
    await convertSnapshot(stream, workDir.file("back"), { to: "mapped-ram", ...options });
    expect(readFileSync(workDir.file("back")).equals(anew)).toBe(true);
    await convertSnapshot(workDir.file("back"), workDir.file("again"), {
      to: "stream",
      offset: facts.streamOffset,
    });
    expect(readFileSync(workDir.file("again")).equals(readFileSync(stream))).toBe(true);
  });

  // Guests that stood still: QEMU itself sent each page once.
  test.each(files.filter(({ name }) => /^q(72|100|111)-(?!mr-).*(exec|virtio|isapc|none|uuid)$/.test(name)))(
    "$name: a stream anew has QEMU's bytes, but for where the parts of RAM end",
    async (facts) => {
      const anew = readFileSync(await convertCorpus(facts, "stream"));
      expect(withoutParts(anew).equals(withoutParts(readFileSync(corpusPath(facts))))).toBe(true);
    },
  );

  test("a live stream keeps each page once", async () => {
    const facts = corpusFile("q111-pc-exec-dirty");
    const anew = readFileSync(await convertCorpus(facts, "stream"));
    expect(anew.length).toBeLessThan(facts.bytes / 2);
  });

  test("early state of virtio-mem stays in front of the first page", async () => {
    const facts = corpusFile("q100-mr-virtiomem");
    const stream = readFileSync(await convertCorpus(facts, "stream"));
    const early = stream.indexOf("virtio-mem-device-early");
    const firstPart = stream.indexOf(Buffer.from([2, 0, 0, 0, 1]));
    expect(early).toBeGreaterThan(0);
    expect(early).toBeLessThan(firstPart);
  });

  test("libvirt's sparse image unwrapped, and wrapped again", async () => {
    const facts = corpusFile("lv113-sparse");
    const unwrapped = await convertCorpus(facts, "mapped-ram", "unwrapped");
    const again = await convertSnapshot(unwrapped, workDir.file("wrapped"), {
      to: "mapped-ram",
      libvirtHeader: corpusPath(facts),
    });
    expect(again.streamOffset).toBe(facts.streamOffset);
    const original = readFileSync(corpusPath(facts));
    const wrapped = readFileSync(again.path);
    const header = facts.streamOffset;
    expect(wrapped.subarray(0, header).equals(original.subarray(0, header))).toBe(true);
    expect(wrapped.equals(original)).toBe(true);
    expect(await verifySnapshot(again.path)).toMatchObject({ ok: true, container: "libvirt", problems: [] });
  });

  test.each(["lv113-raw", "lv113-xz", "lv113-zstd", "lv113-sparse"])(
    "%s in the other forms that libvirt reads",
    async (name) => {
      const facts = corpusFile(name);
      for (const to of FORMATS) {
        const wrapped = await convertCorpus(facts, to, `wrapped-${to}`, { libvirtHeader: corpusPath(facts) });
        const snapshot = await openSnapshot(wrapped);
        const source = await openSnapshot(corpusPath(facts));
        expect(snapshot.libvirt).toEqual({ ...source.libvirt, format: to === "stream" ? "raw" : "sparse" });
        for (const [index, block] of snapshot.blocks.entries()) {
          expect(sha256Of(snapshot, block)).toBe(facts.blocks[index]!.sha256);
        }
        snapshot.close();
        source.close();
      }
    },
  );

  test("a damaged file is refused, and leaves nothing", async () => {
    for (const broken of corpus?.broken ?? []) {
      const { ok } = await verifySnapshot(corpusPath(broken));
      for (const to of FORMATS) {
        const done = convertSnapshot(corpusPath(broken), workDir.file("out"), { to, replace: true });
        if (ok) await done;
        else await expect(done, `${broken.name} to ${to}`).rejects.toThrow(FormatError);
      }
      if (!ok) expect(readdirSync(workDir.path).filter((name) => name.includes("out"))).toEqual([]);
      rmSync(workDir.file("out"), { force: true });
    }
  });

  test("shared memory that was left out: a file is walked twice, a pipe is refused", async () => {
    const facts = corpusFile("q100-pc-ignoreshared");
    const bytes = readFileSync(corpusPath(facts));
    await expect(
      convertSnapshot(sourceOf(bytes), workDir.file("out"), { to: "mapped-ram" }),
    ).rejects.toMatchObject({
      code: "unsupported",
      message: expect.stringContaining("save the stream into a file") as string,
    });
    expect(readdirSync(workDir.path)).toEqual([]);
  });
});

describe("convertSnapshot", () => {
  test("a stream that comes once", async () => {
    const { bytes } = buildStream();
    const result = await convertSnapshot(sourceOf(bytes), workDir.file("vm.ram"), { to: "mapped-ram" });
    expect(result).toMatchObject({
      pages: { normal: 4, zero: 71 },
      from: { container: "qemu", format: "stream" },
    });
    const back = await convertSnapshot(result.path, workDir.file("vm.stream"), { to: "stream" });
    const once = await convertSnapshot(sourceOf(readFileSync(back.path)), workDir.file("vm.stream2"), {
      to: "stream",
    });
    expect(readFileSync(once.path).equals(readFileSync(back.path))).toBe(true);
  });

  test("places in the output, and in the input", async () => {
    const source = workDir.file("in");
    writeFileSync(source, Buffer.concat([Buffer.alloc(5000, 0xee), buildStream().bytes]));
    for (const [index, outputOffset] of [0, 1, 4096, 3 << 20].entries()) {
      for (const to of FORMATS) {
        const file = workDir.file(`${to}-${index}`);
        const result = await convertSnapshot(source, file, { offset: 5000, to, outputOffset });
        expect(result.streamOffset).toBe(outputOffset);
        expect(
          readFileSync(file)
            .subarray(0, outputOffset)
            .every((byte) => byte === 0),
        ).toBe(true);
        expect(await verifySnapshot(file, { offset: outputOffset })).toMatchObject({
          ok: true,
          problems: [],
        });
        const back = await convertSnapshot(file, `${file}-back`, { offset: outputOffset, to });
        expect(back.fileBytes).toBeLessThan(3 << 20);
      }
    }
  });

  test("what is impossible", async () => {
    const source = workDir.file("in");
    writeFileSync(source, buildSnapshot().bytes);
    const out = workDir.file("out");
    writeFileSync(out, "mine");
    await expect(convertSnapshot(source, out, { to: "stream" })).rejects.toThrow(UsageError);
    expect(readFileSync(out, "utf8")).toBe("mine");
    await convertSnapshot(source, out, { to: "stream", replace: true });
    // Over itself, too.
    await convertSnapshot(out, out, { to: "mapped-ram", replace: true });
    await convertSnapshot(source, workDir.file("anew"), { to: "mapped-ram" });
    expect(readFileSync(out).equals(readFileSync(workDir.file("anew")))).toBe(true);
    const other = workDir.file("other");
    for (const outputOffset of [-1, 0.5, Number.NaN]) {
      await expect(convertSnapshot(source, other, { to: "stream", outputOffset })).rejects.toThrow(
        UsageError,
      );
    }
    await expect(
      convertSnapshot(source, other, { to: "stream", libvirtHeader: source, outputOffset: 1 }),
    ).rejects.toThrow(UsageError);
    await expect(
      convertSnapshot(source, other, { to: "stream", libvirtHeader: source }),
    ).rejects.toMatchObject({ code: "malformed" });
    expect(existsSync(other)).toBe(false);
  });

  test.each(FORMATS.flatMap((from) => FORMATS.map((to) => [from, to] as const)))(
    "cancelled on the way from %s to %s",
    async (from, to) => {
      const pages = Array.from({ length: 1024 }, (_, page) => ({
        block: "pc.ram",
        page,
        fill: 1 + (page % 200),
      }));
      const source = workDir.file("in");
      writeFileSync(source, buildStream({ blocks: [["pc.ram", 1024]], pages }).bytes);
      if (from === "mapped-ram") await convertSnapshot(source, source, { to: from, replace: true });
      const controller = new AbortController();
      const done = convertSnapshot(source, workDir.file("out"), { to, signal: controller.signal });
      setImmediate(() => controller.abort());
      await expect(done).rejects.toThrow(CancelledError);
      expect(readdirSync(workDir.path)).toEqual(["in"]);
    },
  );
});

/** A stream with all parts of RAM joined: one after the other, where QEMU's rounds ended is chance. */
function withoutParts(stream: Buffer): Buffer {
  // The name, instance and version of the RAM section, behind its number.
  const ram = stream.indexOf(Buffer.from("\x03ram\0\0\0\0\0\0\0\x04", "latin1"));
  const id = stream.subarray(ram - 4, ram).toString("latin1");
  const hasFooters = stream.includes(Buffer.from(`\0\x10\x7e${id}`, "latin1"));
  const end = `\0\0\0\0\0\0\0\x10${hasFooters ? `\x7e${id}` : ""}`;
  const text = stream.toString("latin1");
  return Buffer.from(text.replaceAll(`${end}\x02${id}`, "").replaceAll(`${end}\x03${id}`, ""), "latin1");
}
