import { describe, expect, test } from "vitest";

import { examineMappedRam, openMappedRam } from "../../../src/engine/mapped-ram/open.js";
import { readMappedRamTail } from "../../../src/engine/mapped-ram/tail.js";
import type { FormatError } from "../../../src/errors/index.js";
import {
  ByteWriter,
  encodeConfiguration,
  encodeEndOfSection,
  encodeFileHeader,
  encodeSectionFooter,
  Limits,
  SectionType,
} from "../../../src/wire/index.js";
import { buildSnapshot, buildTail, MemorySource } from "../../snapshot/build-snapshot.js";
import { cpuTimeMs } from "../../support/cpu-time.js";

const PAGE = 4096;

interface Entry {
  readonly name: string;
  readonly usedLength?: number;
  readonly pageSize?: number;
  readonly bitmapOffset?: number;
  readonly pagesOffset?: number;
}

/** A file with one page a block, each block where it should be unless told otherwise, and what is given behind RAM's START. */
function fileOf(
  entries: readonly Entry[],
  behindStart: Uint8Array,
  options: { readonly capabilities?: readonly string[]; readonly targetPageBits?: number } = {},
): MemorySource {
  const { capabilities = ["mapped-ram"], targetPageBits } = options;
  const file = new MemorySource();
  const writer = new ByteWriter();
  encodeFileHeader(writer);
  const bits = targetPageBits === undefined ? {} : { targetPageBits };
  encodeConfiguration(writer.u8(SectionType.CONFIGURATION), { machine: "m", capabilities, ...bits });
  writer.u8(SectionType.START).u32(1).idstr("ram").u32(0).u32(4);
  const total = entries.reduce((sum, { usedLength = PAGE }) => sum + usedLength, 0);
  writer.u64(BigInt(total) | 4n);
  let position = 0;
  for (const { name, usedLength = PAGE, pageSize = PAGE, ...offsets } of entries) {
    const headerEnd = position + writer.length + 1 + name.length + 8 + 28;
    const pagesOffset = Math.ceil((headerEnd + 8) / PAGE) * PAGE;
    const { bitmapOffset = headerEnd } = offsets;
    writer.idstr(name).u64(usedLength).u32(1).u64(pageSize).u64(bitmapOffset);
    writer.u64(offsets.pagesOffset ?? pagesOffset);
    file.writeAt(writer.finish(), 0, writer.length, position);
    writer.clear();
    position = (offsets.pagesOffset ?? pagesOffset) + usedLength;
  }
  file.writeAt(behindStart, 0, behindStart.length, position);
  return file;
}

const part = (type: number): Uint8Array => {
  const writer = new ByteWriter().u8(type).u32(1);
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, 1);
  return writer.finish().slice();
};
/** What follows the last block's pages: EOS and footer of START, then END. */
const END = Buffer.concat([part(SectionType.START).subarray(5), part(SectionType.END), Buffer.of(0)]);

const problemsOf = (file: MemorySource): FormatError[] => {
  const problems: FormatError[] = [];
  examineMappedRam(file, 0, { onProblem: (problem) => problems.push(problem) });
  return problems;
};

describe("openMappedRam", () => {
  test("a file of the writer", () => {
    const { bytes } = buildSnapshot();
    const file = new MemorySource(bytes);
    const skeleton = openMappedRam(file);
    expect(skeleton).toMatchObject({ pageSize: PAGE, footers: true, totalBytes: 133 * PAGE });
    expect(skeleton.blocks.map(({ name }) => name)).toEqual(["pc.ram", "rom"]);
    for (const { entryOffset, entryLength, name, mapped } of skeleton.blocks) {
      expect(bytes[entryOffset]).toBe(name.length);
      expect(entryOffset + entryLength).toBe(mapped?.bitmapOffset);
    }
    expect(skeleton.ramEndOffset).toBe(bytes.length - buildTail().length);
    expect(readMappedRamTail(file, skeleton).tail.sections).toHaveLength(3);
  });

  test("sections, commands and parts around RAM", () => {
    const early = new ByteWriter().u8(SectionType.COMMAND).u16(11).u16(0);
    early.u8(SectionType.FULL).u32(7).idstr("early").u32(0).u32(2).u32(99);
    encodeSectionFooter(early, 7);
    const behind = Buffer.concat([
      END.subarray(0, 13),
      early.finish(),
      part(SectionType.PART),
      END.subarray(13),
    ]);
    const skeleton = openMappedRam(fileOf([{ name: "a" }], behind));
    expect(skeleton.betweenRam).toMatchObject([
      { type: SectionType.COMMAND, length: 5 },
      { type: SectionType.FULL, id: 7, header: { name: "early", version: 2 }, length: 14 + 5 + 4 + 5 },
    ]);
  });

  const bad: readonly (readonly [string, MemorySource, string, RegExp])[] = [
    [
      "an impossible page size",
      fileOf([{ name: "a", pageSize: 0 }], END),
      "malformed",
      /page size .* block a/,
    ],
    [
      "a page size that is no power of two",
      fileOf([{ name: "a", pageSize: 5000 }], END),
      "malformed",
      /page size/,
    ],
    [
      "two page sizes",
      fileOf([{ name: "a" }, { name: "b", pageSize: 2048 }], END),
      "inconsistent",
      /block b, expected 4096, found 2048/,
    ],
    [
      "another page size than the configuration's",
      fileOf([{ name: "a" }], END, { targetPageBits: 11 }),
      "inconsistent",
      /expected 2048/,
    ],
    [
      "a length that is no multiple",
      fileOf([{ name: "a", usedLength: 5000 }], END),
      "malformed",
      /no multiple/,
    ],
    [
      "pages that are not aligned",
      fileOf([{ name: "a", pagesOffset: 4097 }], END),
      "malformed",
      /not aligned/,
    ],
    [
      "a bitmap behind the end",
      fileOf([{ name: "a", bitmapOffset: 2 ** 40 }], END),
      "truncated",
      /bitmap lies past/,
    ],
    ["a name twice", fileOf([{ name: "a" }, { name: "a" }], END), "malformed", /listed twice/],
    [
      "no end",
      fileOf([{ name: "a" }], END.subarray(0, 13)),
      "truncated",
      /file ends before the RAM section ends/,
    ],
    ["pages in a part", fileOf([{ name: "a" }], Buffer.alloc(40, 8)), "malformed", /more than its end/],
  ];
  test.each(bad)("refuses %s, and a tolerant reading tells of it", (_, file, code, message) => {
    expect(() => openMappedRam(file)).toThrow(expect.objectContaining({ code }));
    expect(() => openMappedRam(file)).toThrow(message);
    expect(problemsOf(file).map((problem) => problem.code)).toContain(code);
  });

  test("a tolerant reading tells of everything", () => {
    const file = fileOf(
      [{ name: "a", pageSize: 3 }, { name: "a" }, { name: "b", pageSize: 8192 }],
      END.subarray(0, 13),
    );
    // Of the last block: length, alignment, and the target's page size.
    expect(problemsOf(file).map(({ data }) => data.block)).toEqual(["a", "a", "b", "b", "b", undefined]);
  });

  test("a block list that ends too early", () => {
    const { bytes } = fileOf([{ name: "a" }], END);
    const total = Buffer.from(bytes).indexOf(Buffer.of(0x10, 0x04));
    bytes[total] = 0x20;
    expect(() => openMappedRam(new MemorySource(bytes))).toThrow(
      /No RAM block stands .* expected blocks of 8192 bytes in all, found blocks of 4096 bytes/,
    );
  });

  test("what is no mapped-ram file", () => {
    for (const capabilities of [[], ["x-ignore-shared"]]) {
      expect(() => openMappedRam(fileOf([{ name: "a" }], END, { capabilities }))).toThrow(
        expect.objectContaining({ code: "unsupported" }),
      );
    }
    expect(() => openMappedRam(new MemorySource(), 5)).toThrow(
      expect.objectContaining({ code: "truncated" }),
    );
  });

  test("a long row of parts without an end is walked soon", () => {
    const parts = Buffer.alloc(18 * Limits.sections * 2, part(SectionType.PART));
    const file = fileOf([{ name: "a" }], Buffer.concat([END.subarray(0, 13), parts]));
    const startMs = cpuTimeMs();
    expect(() => openMappedRam(file)).toThrow(expect.objectContaining({ code: "truncated" }));
    expect(cpuTimeMs() - startMs).toBeLessThan(1500);
  });
});
