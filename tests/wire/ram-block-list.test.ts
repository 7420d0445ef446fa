import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../src/errors/index.js";
import {
  BlockListBuilder,
  ByteReader,
  ByteWriter,
  decodeBlockListEntry,
  decodeBlockListHead,
  encodeBlockListEntry,
  encodeBlockListHead,
  Limits,
  type RamBlockEntry,
} from "../../src/wire/index.js";

const entry: fc.Arbitrary<RamBlockEntry> = fc.record({
  name: fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 40 }),
  usedLength: fc.integer({ min: 1, max: 2 ** 28 }).map((pages) => pages * 4096),
});
const entries = fc.uniqueArray(entry, { selector: ({ name }) => name, minLength: 1, maxLength: 12 });

describe("the block list", () => {
  test("round trip", () => {
    fc.assert(
      fc.property(entries, fc.boolean(), (blocks, ignoreShared) => {
        const listed = blocks.map((block, index) =>
          ignoreShared ? { ...block, guestAddress: BigInt(index) << 32n } : block,
        );
        const writer = new ByteWriter();
        const total = listed.reduce((sum, { usedLength }) => sum + usedLength, 0);
        encodeBlockListHead(writer, total);
        for (const block of listed) encodeBlockListEntry(writer, block);
        const reader = new ByteReader(writer.finish());
        const list = new BlockListBuilder(decodeBlockListHead(reader));
        while (!list.complete) {
          const { offset } = reader;
          list.add(decodeBlockListEntry(reader, { ignoreShared, postcopyPageSizes: 0 }), offset);
        }
        expect(list.blocks).toEqual(listed);
        expect(list.totalBytes).toBe(total);
        expect(list.listedBytes).toBe(total);
        expect(reader.remaining).toBe(0);
      }),
    );
  });

  test("a huge page's size is there or not", () => {
    const dialect = { ignoreShared: false, postcopyPageSizes: 0x200000 | 4096 };
    const huge = { name: "mem0", usedLength: 0x400000, hostPageSize: 0x200000 };
    const writer = new ByteWriter();
    encodeBlockListEntry(writer, huge);
    encodeBlockListEntry(writer, { name: "rom", usedLength: 4096 });
    writer.u64(16);
    const reader = new ByteReader(writer.finish());
    expect(decodeBlockListEntry(reader, dialect)).toEqual(huge);
    expect(decodeBlockListEntry(reader, dialect)).toEqual({ name: "rom", usedLength: 4096 });
    expect(reader.u64()).toBe(16n);
  });

  test("a head that is none, and one beyond reason", () => {
    const head = (value: bigint) => () =>
      decodeBlockListHead(new ByteReader(new ByteWriter().u64(value).finish()));
    expect(head(0x100000n)).toThrow(expect.objectContaining({ code: "malformed" }));
    expect(head((2n ** 63n) | 4n)).toThrow(expect.objectContaining({ code: "limit-exceeded" }));
    expect(head(0x100004n)()).toBe(0x100000);
  });

  test("a name's control characters do not reach a terminal", () => {
    const bytes = new ByteWriter()
      .idstr("\u001b[2J")
      .u64(2n ** 63n)
      .finish();
    expect(() =>
      decodeBlockListEntry(new ByteReader(bytes), { ignoreShared: false, postcopyPageSizes: 0 }),
    ).toThrow(/\\u\{1b\}\[2J/);
  });

  const add = (list: BlockListBuilder<RamBlockEntry>, name: string, usedLength: number): void => {
    list.add({ name, usedLength }, 50);
  };

  test("twice the same name, no bytes, too many bytes", () => {
    const list = new BlockListBuilder(8192);
    add(list, "a", 4096);
    expect(() => {
      add(list, "a", 4096);
    }).toThrow(/listed twice \(offset 50, section ram, block a\)/);
    expect(() => {
      add(list, "b", 0);
    }).toThrow(/no bytes/);
    expect(() => {
      add(list, "c", 8192);
    }).toThrow(expect.objectContaining({ code: "inconsistent" }));
  });

  test("who wants to go on is told and goes on", () => {
    const problems: FormatError[] = [];
    const list = new BlockListBuilder<RamBlockEntry>(8192, (problem) => problems.push(problem));
    add(list, "a", 4096);
    add(list, "a", 0);
    expect(list.complete).toBe(false);
    add(list, "b", 8192);
    expect(list.complete).toBe(true);
    expect(problems.map(({ message }) => message.split(" (")[0])).toEqual([
      "A RAM block is listed twice",
      "A RAM block has no bytes",
      "The RAM blocks are longer than their announced total",
    ]);
  });

  test("no more blocks than the limit", () => {
    const list = new BlockListBuilder<RamBlockEntry>(2 ** 50);
    for (let index = 0; index < Limits.ramBlocks; index++) add(list, `block${index}`, 4096);
    expect(() => {
      add(list, "one more", 4096);
    }).toThrow(expect.objectContaining({ code: "limit-exceeded" }));
  });
});
