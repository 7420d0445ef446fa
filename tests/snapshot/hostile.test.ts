/**
 * Files that were made to cost time or memory, or to reach the terminal of who looks at them. Each is refused or shown
 * harmlessly, soon, in memory that does not depend on what it claims.
 */

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { createGzip, gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";

import { FormatError, RamportError } from "../../src/errors/index.js";
import { openSnapshot, snapshotInfo, verifySnapshot } from "../../src/snapshot/index.js";
import {
  ByteWriter,
  encodeBlockListEntry,
  encodeBlockListHead,
  encodeCommand,
  encodeConfiguration,
  encodeEndOfSection,
  encodeFileHeader,
  encodeLibvirtSaveHeader,
  encodeMappedRamHeader,
  encodeSectionFooter,
  encodeSectionHeader,
  LIBVIRT_MAX_DATA_BYTES,
  type LibvirtFormat,
  MigrationCommand,
  RamFlag,
  SectionType,
} from "../../src/wire/index.js";
import { ramport } from "../support/ramport-cli.js";
import { buildStream } from "../support/stream-builder.js";
import { useWorkDir } from "../support/work-dir.js";
import { MemorySource } from "./build-snapshot.js";
import { cpuTimeMs } from "../support/cpu-time.js";

const MIB = 1 << 20;
const MILLION = 1_000_000;
/** Of processor time: twice what the slowest takes. */
const SOON_MS = 4000;
/** Beside the file itself, which is in memory here. */
const MOST_GROWTH_BYTES = 400 * MIB;
const PAGE = 4096;
/** The built streams' sections. */
const RAM_ID = 2;

const work = useWorkDir();
const { bytes: stream, places } = buildStream();

/** The built stream with something put in. */
function splice(at: number, extra: Uint8Array): Buffer {
  return Buffer.concat([stream.subarray(0, at), extra, stream.subarray(at)]);
}

function repeat(count: number, put: (writer: ByteWriter, index: number) => void): Uint8Array {
  const writer = new ByteWriter(1 << 20);
  for (let index = 0; index < count; index++) put(writer, index);
  return writer.finish();
}

function putSection(writer: ByteWriter, index: number): void {
  encodeSectionHeader(writer, SectionType.FULL, { id: index + 100, name: "d", instance: index, version: 1 });
  encodeSectionFooter(writer, index + 100);
}

function putPart(writer: ByteWriter, id: number): void {
  writer.u8(SectionType.PART).u32(id);
  if (id === RAM_ID) encodeEndOfSection(writer);
  encodeSectionFooter(writer, id);
}

/** The built stream with another description. */
function described(text: string): Buffer {
  const encoded = Buffer.from(text);
  const head = new ByteWriter().u8(SectionType.VMDESCRIPTION).u32(encoded.length).finish();
  return Buffer.concat([stream.subarray(0, places.description), head, encoded]);
}

/** A stream up to the end of its block list. */
function listed(
  entries: readonly Uint8Array[],
  totalBytes: number,
  capabilities: readonly string[] = [],
): Uint8Array {
  const writer = new ByteWriter();
  encodeFileHeader(writer);
  writer.u8(SectionType.CONFIGURATION);
  encodeConfiguration(writer, { machine: "pc", capabilities });
  encodeSectionHeader(writer, SectionType.START, { id: RAM_ID, name: "ram", instance: 0, version: 4 });
  encodeBlockListHead(writer, totalBytes);
  for (const entry of entries) writer.raw(entry);
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, RAM_ID);
  return writer.finish();
}

function entry(name: string, usedLength: number): Uint8Array {
  const writer = new ByteWriter();
  encodeBlockListEntry(writer, { name, usedLength });
  return writer.finish();
}

function image(
  xml: string,
  content: Uint8Array = stream,
  format: LibvirtFormat = "raw",
  dataBytes = xml.length + 100,
): Buffer {
  const header = encodeLibvirtSaveHeader({
    ...{ byteOrder: "little", complete: true, version: 2, wasRunning: true },
    ...{ format, xml, dataBytes },
  });
  return Buffer.concat([header, content]);
}

const XML = "<domain><name>vm</name></domain>";

/** Reads it in every way; returns what the openings said, the plainest first. */
async function look(bytes: Uint8Array): Promise<readonly unknown[]> {
  const source = new MemorySource(bytes);
  const open = async (): Promise<void> => (await openSnapshot(source)).close();
  const outcomes: unknown[] = [];
  for (const action of [() => snapshotInfo(source), open, () => verifySnapshot(source)]) {
    const before = process.memoryUsage().rss;
    const startMs = cpuTimeMs();
    const outcome: unknown = await action().catch((error: unknown) => error);
    expect(cpuTimeMs() - startMs).toBeLessThan(SOON_MS);
    expect(process.memoryUsage().rss - before).toBeLessThan(MOST_GROWTH_BYTES);
    if (outcome instanceof Error) expect(outcome).toBeInstanceOf(RamportError);
    outcomes.push(outcome);
  }
  return outcomes;
}

async function expectRefused(bytes: Uint8Array, code: string): Promise<void> {
  const [, opened, verified] = await look(bytes);
  expect(opened).toBeInstanceOf(FormatError);
  expect(opened).toMatchObject({ code });
  expect(verified).toMatchObject({ ok: false });
}

describe("too many of something", () => {
  test("a million sections behind RAM", async () => {
    await expectRefused(splice(places.device, repeat(MILLION, putSection)), "limit-exceeded");
  });

  test("a million sections in front of RAM", async () => {
    await expectRefused(splice(places.early, repeat(MILLION, putSection)), "limit-exceeded");
  });

  test("65,536 commands behind RAM, and in front of it", async () => {
    const put = (writer: ByteWriter): void =>
      encodeCommand(writer, { command: MigrationCommand.SWITCHOVER_START, data: new Uint8Array() });
    await expectRefused(splice(places.device, repeat(65_536, put)), "limit-exceeded");
    await expectRefused(splice(places.commands, repeat(65_537, put)), "limit-exceeded");
  });

  test("endless parts, of RAM and of another section", async () => {
    // A long migration has many: they are read, and nothing is kept of each.
    for (const id of [RAM_ID, 77]) {
      const [, opened, verified] = await look(
        splice(
          places.part,
          repeat(MILLION / 2, (writer) => putPart(writer, id)),
        ),
      );
      expect(opened).toBeUndefined();
      expect(verified).toMatchObject({ ok: true });
    }
  });

  test("a block list of a million entries", async () => {
    const entries = Array.from({ length: MILLION }, (_, index) => entry(`b${index}`, PAGE));
    await expectRefused(listed(entries, MILLION * PAGE), "limit-exceeded");
  });

  test("a million devices in the description", async () => {
    const devices = '{"name":"d","instance_id":0},'.repeat(MILLION);
    await expectRefused(described(`{"devices": [${devices.slice(0, -1)}]}`), "limit-exceeded");
  });

  test("many places that look like the end of RAM, before a long description", async () => {
    const fakes = repeat(60, (writer) => {
      encodeEndOfSection(writer);
      encodeSectionFooter(writer, RAM_ID);
      encodeSectionHeader(writer, SectionType.FULL, { id: 5, name: "x", instance: 0, version: 1 });
    });
    const holder = new ByteWriter();
    encodeSectionHeader(holder, SectionType.FULL, { id: 50, name: "y", instance: 0, version: 1 });
    holder.raw(fakes);
    encodeSectionFooter(holder, 50);
    const device = `{"name":"d","instance_id":0,"padding":"${"p".repeat(200)}"},`.repeat(65_000);
    const bytes = described(`{"page_size": 4096, "devices": [${device.slice(0, -1)}]}`);
    const at = places.eof;
    await look(Buffer.concat([bytes.subarray(0, at), holder.finish(), bytes.subarray(at)]));
  });
});

describe("absurd sizes", () => {
  test("descriptions nested 100,000 deep", async () => {
    const depth = 100_000;
    const structs = `${'{"name":"a","instance_id":0,"fields":[{"struct":'.repeat(depth)}1${"}]}".repeat(depth)}`;
    await expectRefused(described(`{"devices": [${structs}]}`), "limit-exceeded");
    await expectRefused(described(`{"devices": ${"[".repeat(depth)}${"]".repeat(depth)}}`), "limit-exceeded");
  });

  test("a bitmap for 2^52 pages, and a block for as many", async () => {
    const usedLength = 2 ** 52;
    const writer = new ByteWriter().raw(entry("pc.ram", usedLength));
    encodeMappedRamHeader(writer, { pageSize: 256, bitmapOffset: 200, pagesOffset: MIB });
    const mapped = listed([writer.finish()], usedLength, ["mapped-ram"]);
    await expectRefused(Buffer.concat([mapped, Buffer.alloc(4096)]), "truncated");
    await expectRefused(listed([entry("pc.ram", usedLength)], usedLength), "limit-exceeded");
  });

  test("a guest of 16 TiB without a page", async () => {
    const bytes = Buffer.concat([listed([entry("pc.ram", 2 ** 44)], 2 ** 44), stream.subarray(places.end)]);
    const [, opened] = await look(bytes);
    expect(opened).toBeUndefined();
  });

  test("domain XML of 16 MiB", async () => {
    const room = LIBVIRT_MAX_DATA_BYTES - 40;
    const fill = (piece: string): string => piece.repeat(Math.floor(room / piece.length));
    const texts = [
      `<domain>${fill("<a/>")}`,
      `<domain>${fill("<a>")}`,
      `<domain><name>${fill("&amp;")}</name>`,
      `<domain>${fill("<a '")}`,
      `<domain>${fill("<!---->")}`,
      fill("<"),
    ];
    for (const xml of texts) {
      const [info] = await look(image(xml, stream, "raw", LIBVIRT_MAX_DATA_BYTES));
      expect(info).toMatchObject({ complete: true, libvirt: { format: "raw" } });
      expect(info).not.toHaveProperty("libvirt.domain");
    }
    const tooLong = image(XML);
    tooLong.writeUInt32LE(LIBVIRT_MAX_DATA_BYTES + 1, 20);
    await expectRefused(tooLong, "limit-exceeded");
  });

  test("a cookie that lies outside", async () => {
    for (const [offset, code] of [
      [XML.length + 100, "malformed"],
      [0xffff_ffff, "malformed"],
    ] as const) {
      const bytes = image(XML);
      bytes.writeUInt32LE(offset, 32);
      await expectRefused(bytes, code);
    }
  });

  test("60 MiB of almost-footers", async () => {
    const header = new ByteWriter();
    encodeSectionHeader(header, SectionType.FULL, { id: 3, name: "z", instance: 0, version: 1 });
    const footers = Buffer.alloc(60 * MIB, 0x7e);
    await look(splice(places.device, Buffer.concat([header.finish(), footers])));
  });
});

describe("packed images", () => {
  const PAGES = 256;

  /** A guest of 1 MiB whose pages come again and again. */
  async function bomb(rounds: number): Promise<Buffer> {
    const head = listed([entry("pc.ram", PAGES * PAGE)], PAGES * PAGE);
    const part = new ByteWriter(2 * MIB).u8(SectionType.PART).u32(RAM_ID);
    for (let page = 0; page < PAGES; page++) {
      part.u64(page * PAGE + (RamFlag.PAGE | (page === 0 ? 0 : RamFlag.CONTINUE)));
      if (page === 0) part.idstr("pc.ram");
      part.raw(new Uint8Array(PAGE).fill(1 + (page % 255)));
    }
    encodeEndOfSection(part);
    encodeSectionFooter(part, RAM_ID);
    const pieces = [
      head,
      ...Array.from({ length: rounds }, () => part.finish()),
      stream.subarray(places.end),
    ];
    return buffer(Readable.from(pieces).pipe(createGzip({ level: 1 })));
  }

  /** Bytes on disk of files without a name in a folder, which this process has open. */
  function scratchBytes(folder: string): number {
    let sum = 0;
    for (const name of readdirSync("/proc/self/fd")) {
      const link = `/proc/self/fd/${name}`;
      try {
        if (readlinkSync(link).startsWith(folder)) sum += statSync(link).blocks * 512;
      } catch {
        // Closed in the meantime.
      }
    }
    return sum;
  }

  test.runIf(existsSync("/proc/self/fd"))(
    "scratch space is bounded by the guest's RAM, not by what is unpacked",
    async () => {
      const packed = await bomb(300);
      const bytes = image(XML, packed, "gzip");
      expect(bytes.length).toBeLessThan(8 * MIB);
      const before = process.memoryUsage().rss;
      const scratchFolder = work.path;
      let most = 0;
      const snapshot = await openSnapshot(new MemorySource(bytes), {
        scratchFolder,
        onProgress: () => (most = Math.max(most, scratchBytes(scratchFolder))),
      });
      most = Math.max(most, scratchBytes(scratchFolder));
      expect(snapshot.countPresent(snapshot.blocks[0]!)).toBe(PAGES);
      snapshot.close();
      expect(most).toBeGreaterThanOrEqual(PAGES * PAGE);
      // One MiB for the pages, and what stands around them.
      expect(most).toBeLessThan(3 * MIB);
      expect(scratchBytes(scratchFolder)).toBe(0);
      expect(process.memoryUsage().rss - before).toBeLessThan(MOST_GROWTH_BYTES);
    },
  );

  test("what is no stream is refused at its first bytes", async () => {
    await expectRefused(image(XML, gzipSync(Buffer.alloc(100 * MIB)), "gzip"), "malformed");
  });

  test("an unpacking that was given up can be cancelled, and holds nothing", async () => {
    const bytes = image(XML, await bomb(100), "gzip");
    const signal = AbortSignal.timeout(20);
    const failure = await openSnapshot(new MemorySource(bytes), { signal }).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "cancelled" });
  });

  const isProgramRunning = (): boolean => process.getActiveResourcesInfo().includes("ProcessWrap");

  test.runIf(spawnSync("xz", ["--version"]).error === undefined)(
    "a program that unpacks ends when its data turns out to be no stream",
    async () => {
      // Longer than what pipes hold: nobody reads the rest of it.
      const packed = spawnSync("xz", ["-0", "-c"], { input: Buffer.alloc(64 * MIB, 5) }).stdout;
      await expectRefused(image(XML, packed, "xz"), "malformed");
      const limit = Date.now() + 5000;
      while (isProgramRunning() && Date.now() < limit) await sleep(20);
      expect(isProgramRunning()).toBe(false);
    },
  );
});

describe("names", () => {
  const ESCAPES = "\u001b]0;owned\u0007\u001b[2J\u009b31m\u202egpj.\r\n\u0000x";

  test("that are not UTF-8 are refused", async () => {
    const bad = Buffer.from(stream);
    bad[bad.indexOf("pc-i440fx-10.0")] = 0xff;
    await expectRefused(bad, "malformed");
    const block = Buffer.from(stream);
    block[block.indexOf("pc.ram")] = 0xc3;
    await expectRefused(block, "malformed");
    const device = Buffer.from(stream);
    device[device.indexOf("timer")] = 0xff;
    await look(device);
  });

  test("that hold terminal escapes are harmless on the terminal", async () => {
    const blocks = [[`ram${ESCAPES}`, 4]] as const;
    const inner = buildStream({ machine: `m${ESCAPES}`, blocks, pages: [] }).bytes;
    const section = new ByteWriter();
    encodeSectionHeader(section, SectionType.FULL, {
      id: 30,
      name: `dev${ESCAPES}`,
      instance: 0,
      version: 1,
    });
    encodeSectionFooter(section, 30);
    const at = inner.lastIndexOf(Buffer.of(SectionType.EOF, SectionType.VMDESCRIPTION));
    const whole = Buffer.concat([inner.subarray(0, at), section.finish(), inner.subarray(at)]);
    const files = {
      "whole.img": image(`<domain><name>${ESCAPES.replaceAll("\u0000", "")}</name></domain>`, whole),
      "cut.mig": inner.subarray(0, at - 20),
      "text.mig": described(`{"devices": [{"name": "${ESCAPES}", "instance_id": 0}, ${ESCAPES}]}`),
      "capability.mig": buildStream({ capabilities: [ESCAPES] }).bytes,
    };
    for (const [name, bytes] of Object.entries(files)) {
      const file = path.join(work.path, name);
      writeFileSync(file, bytes);
      for (const command of ["info", "verify", "inspect"]) {
        const { stdout, stderr, code } = await ramport([command, file]);
        expect([0, 1], stderr).toContain(code);
        expect(stdout + stderr).not.toMatch(/(?!\n)[\p{Cc}\p{Cf}]/u);
      }
    }
  }, 60_000);
});
