import fc from "fast-check";
import { describe, expect, test } from "vitest";

import {
  ByteReader,
  ByteWriter,
  decodeCommand,
  decodeFileHeader,
  decodeReturnPathRecord,
  decodeSectionFooter,
  decodeSectionHeader,
  encodeCommand,
  encodeFileHeader,
  encodePong,
  encodeSectionFooter,
  encodeSectionHeader,
  encodeShut,
  MigrationCommand,
  ReturnPathMessage,
  searchSectionFooter,
  SectionType,
} from "../../src/wire/index.js";

const u32 = fc.nat(0xffffffff);
const header = fc.record({
  id: u32,
  name: fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 80 }),
  instance: u32,
  version: u32,
});

describe("section framing", () => {
  test("header and footer round trip", () => {
    fc.assert(
      fc.property(header, fc.constantFrom(SectionType.START, SectionType.FULL), (value, type) => {
        const writer = new ByteWriter();
        encodeSectionHeader(writer, type, value);
        encodeSectionFooter(writer, value.id);
        const reader = new ByteReader(writer.finish());
        expect(reader.u8()).toBe(type);
        expect(decodeSectionHeader(reader)).toEqual(value);
        decodeSectionFooter(reader, value);
        expect(reader.remaining).toBe(0);
      }),
    );
  });

  test("a footer that is none, or another section's", () => {
    const section = { id: 5, name: "cpu" };
    const decode = (bytes: Uint8Array) => () => {
      decodeSectionFooter(new ByteReader(bytes, 100), section);
    };
    expect(decode(new ByteWriter().u8(0x7f).u32(5).finish())).toThrow(/offset 100, section cpu/);
    expect(decode(new ByteWriter().u8(0x7e).u32(6).finish())).toThrow(/expected 5, found 6/);
  });

  test("the file header", () => {
    const writer = new ByteWriter();
    encodeFileHeader(writer);
    expect(Buffer.from(writer.finish()).toString("hex")).toBe("5145564d00000003");
    expect(() => {
      decodeFileHeader(new ByteReader(writer.finish()));
    }).not.toThrow();
    for (const [version, words] of [
      [2, /obsolete/],
      [4, /unknown/],
    ] as const) {
      const bytes = new ByteWriter().u32(0x5145564d).u32(version).finish();
      expect(() => {
        decodeFileHeader(new ByteReader(bytes));
      }).toThrow(words);
    }
    expect(() => {
      decodeFileHeader(new ByteReader(new Uint8Array(8)));
    }).toThrow(expect.objectContaining({ code: "malformed" }));
  });
});

describe("commands and the return path", () => {
  test("round trip", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...Object.values(MigrationCommand)),
        fc.uint8Array({ maxLength: 300 }),
        (command, data) => {
          const writer = new ByteWriter();
          encodeCommand(writer, { command, data });
          const reader = new ByteReader(writer.finish());
          expect(reader.u8()).toBe(SectionType.COMMAND);
          expect(decodeCommand(reader)).toEqual({ command, data });
        },
      ),
    );
  });

  test("unknown ones", () => {
    const bytes = new ByteWriter().u16(99).u16(0).finish();
    expect(() => decodeCommand(new ByteReader(bytes))).toThrow(
      expect.objectContaining({ code: "unsupported" }),
    );
    expect(() => decodeReturnPathRecord(new ByteReader(bytes))).toThrow(
      expect.objectContaining({ code: "malformed" }),
    );
  });

  test("answers", () => {
    const writer = new ByteWriter();
    encodePong(writer, 3);
    encodeShut(writer, 0);
    const reader = new ByteReader(writer.finish());
    const pong = decodeReturnPathRecord(reader);
    expect(pong.type).toBe(ReturnPathMessage.PONG);
    expect(new ByteReader(pong.data).u32()).toBe(3);
    expect(decodeReturnPathRecord(reader)).toEqual({ type: ReturnPathMessage.SHUT, data: new Uint8Array(4) });
  });
});

describe("searching a footer", () => {
  const footer = (id: number): Uint8Array => new ByteWriter().u8(0x7e).u32(id).finish().slice();

  test("only one with something plausible behind it counts", () => {
    const nexts: readonly (readonly [string, Uint8Array, boolean])[] = [
      ["a section", new ByteWriter().u8(4).u32(9).idstr("cpu").u32(0).u32(1).finish(), true],
      ["a section cut off", new ByteWriter().u8(4).u32(9).idstr("cpu").u32(0).finish(), false],
      [
        "a section with an unprintable name",
        new ByteWriter().u8(4).u32(9).idstr("\u0001").u64(0).finish(),
        false,
      ],
      ["a section without a name", new ByteWriter().u8(1).u32(9).u8(0).u64(0).finish(), false],
      ["a later part", new ByteWriter().u8(2).u32(9).finish(), true],
      ["a later part of an absurd section", new ByteWriter().u8(3).u32(0xffffffff).finish(), false],
      ["a command", new ByteWriter().u8(8).u16(11).finish(), true],
      ["an unknown command", new ByteWriter().u8(8).u16(12).finish(), false],
      ["the end", Uint8Array.of(0), true],
      ["the end and a description", Uint8Array.of(0, 6), true],
      ["the end and something else", Uint8Array.of(0, 7), false],
      ["nothing", new Uint8Array(), false],
      ["something else", Uint8Array.of(9), false],
    ];
    for (const [what, next, found] of nexts) {
      const bytes = Buffer.concat([Buffer.alloc(20, 1), footer(5), next]);
      expect(searchSectionFooter(bytes, 3, 5), what).toBe(found ? 20 : -1);
      expect(searchSectionFooter(bytes, 3, 6), what).toBe(-1);
      expect(searchSectionFooter(bytes, 21, 5), what).toBe(-1);
    }
  });

  test("a file full of footers is searched in no time", () => {
    const piece = Buffer.concat([footer(1), Buffer.from([1, 0, 0, 0, 1, 0])]);
    const bytes = Buffer.alloc(16 << 20, piece);
    const started = performance.now();
    expect(searchSectionFooter(bytes, 0, 1)).toBe(-1);
    expect(performance.now() - started).toBeLessThan(1000);
  });
});
