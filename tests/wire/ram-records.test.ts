import fc from "fast-check";
import { describe, expect, test } from "vitest";

import {
  ByteWriter,
  encodeEndOfSection,
  RamFlag,
  RamRecordDecoder,
  ramRecordHeadBytes,
  type RamRecordSink,
  writeRamRecordHead,
} from "../../src/wire/index.js";

const PAGE = 4096;
const BLOCKS = [
  { name: "pc.ram", usedLength: 64 * PAGE },
  { name: "pc.bios", usedLength: 8 * PAGE },
  // Addresses beyond 32 bits.
  { name: "large", usedLength: 2 ** 40 },
];

type Seen =
  | readonly ["page", number, number, number]
  | readonly ["zero", number, number]
  | readonly ["xbzrle" | "compressed", number, number, string];

class Recorder implements RamRecordSink {
  readonly seen: Seen[] = [];

  page(block: number, address: number, bytes: Uint8Array, at: number): void {
    const page = bytes.subarray(at, at + PAGE);
    expect(page.length).toBe(PAGE);
    expect(page.every((byte) => byte === page[0])).toBe(true);
    this.seen.push(["page", block, address, page[0]!]);
  }

  zeroPage(block: number, address: number): void {
    this.seen.push(["zero", block, address]);
  }

  xbzrlePage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    this.seen.push(["xbzrle", block, address, Buffer.from(bytes.subarray(at, at + length)).toString("hex")]);
  }

  compressedPage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    this.seen.push([
      "compressed",
      block,
      address,
      Buffer.from(bytes.subarray(at, at + length)).toString("hex"),
    ]);
  }
}

interface Record {
  readonly kind: "page" | "zero" | "xbzrle" | "compressed";
  readonly block: number;
  readonly address: number;
  readonly fill: number;
  readonly data: Uint8Array;
  /** Whether a new section begins behind it: CONTINUE goes on over that. */
  readonly endsSection: boolean;
}

const record: fc.Arbitrary<Record> = fc
  .record({
    kind: fc.constantFrom("page" as const, "zero" as const, "xbzrle" as const, "compressed" as const),
    block: fc.nat(BLOCKS.length - 1),
    position: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    fill: fc.integer({ min: 1, max: 255 }),
    data: fc.uint8Array({ minLength: 1, maxLength: 50 }),
    endsSection: fc.boolean(),
  })
  .map(({ position, ...rest }) => ({
    ...rest,
    address: Math.floor((position * BLOCKS[rest.block]!.usedLength) / PAGE) * PAGE,
  }));

function encode(records: readonly Record[]): { bytes: Uint8Array; seen: Seen[]; sections: number } {
  const writer = new ByteWriter();
  const seen: Seen[] = [];
  let previous = -1;
  let sections = 0;
  for (const { kind, block, address, fill, data, endsSection } of records) {
    const name = previous === block ? undefined : new TextEncoder().encode(BLOCKS[block]!.name);
    const head = new Uint8Array(ramRecordHeadBytes(name));
    const flag = kind === "page" ? RamFlag.PAGE : RamFlag.ZERO;
    const view = new DataView(head.buffer);
    expect(writeRamRecordHead(view, 0, address, flag, name)).toBe(head.length);
    if (kind === "xbzrle" || kind === "compressed") {
      const other = kind === "xbzrle" ? RamFlag.XBZRLE : RamFlag.COMPRESS_PAGE;
      view.setUint32(4, view.getUint32(4) - flag + other);
    }
    writer.raw(head);
    if (kind === "page") {
      writer.raw(new Uint8Array(PAGE).fill(fill));
      seen.push(["page", block, address, fill]);
    } else if (kind === "zero") {
      writer.u8(0);
      seen.push(["zero", block, address]);
    } else {
      if (kind === "xbzrle") writer.u8(1).u16(data.length).raw(data);
      else writer.u32(data.length).raw(data);
      seen.push([kind, block, address, Buffer.from(data).toString("hex")]);
    }
    if (endsSection) {
      encodeEndOfSection(writer);
      sections += 1;
    }
    previous = block;
  }
  encodeEndOfSection(writer);
  return { bytes: writer.finish().slice(), seen, sections: sections + 1 };
}

/** Feeds the bytes in pieces, as a socket does; a record that is not whole comes again with what follows it. */
function decodeInPieces(bytes: Uint8Array, cuts: readonly number[]): { seen: Seen[]; sections: number } {
  const sink = new Recorder();
  const decoder = new RamRecordDecoder(BLOCKS, PAGE, sink);
  const ends = [...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  let position = 0;
  let sections = 0;
  for (const end of ends) {
    do {
      position = decoder.decode(bytes, position, end, 0);
      if (decoder.stop === "end-of-section") sections += 1;
    } while (decoder.stop === "end-of-section" && position < end);
  }
  expect(position).toBe(bytes.length);
  return { seen: sink.seen, sections };
}

describe("RamRecordDecoder", () => {
  test("the same records, wherever the bytes are split and sections end", () => {
    fc.assert(
      fc.property(
        fc.array(record, { maxLength: 30 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        (records, cuts) => {
          const { bytes, seen, sections } = encode(records);
          expect(decodeInPieces(bytes, cuts)).toEqual({ seen, sections });
        },
      ),
    );
  });

  test("byte by byte", () => {
    const { bytes, seen, sections } = encode([
      { kind: "zero", block: 0, address: 0, fill: 0, data: new Uint8Array(), endsSection: false },
      { kind: "zero", block: 0, address: PAGE, fill: 0, data: new Uint8Array(), endsSection: true },
      { kind: "page", block: 1, address: 7 * PAGE, fill: 9, data: new Uint8Array(), endsSection: false },
    ]);
    const cuts = Array.from({ length: bytes.length }, (_, index) => index);
    expect(decodeInPieces(bytes, cuts)).toEqual({ seen, sections });
  });

  test("a page filled with another byte than zero", () => {
    const sink = new Recorder();
    const bytes = new ByteWriter().u64(RamFlag.ZERO).idstr("pc.ram").u8(7).finish();
    new RamRecordDecoder(BLOCKS, PAGE, sink).decode(bytes, 0, bytes.length, 0);
    expect(sink.seen).toEqual([["page", 0, 0, 7]]);
  });

  test("a multifd flush is behind the records that it follows, and before those behind it", () => {
    const sink = new Recorder();
    const zero = (address: number): ByteWriter =>
      new ByteWriter()
        .u64(address | RamFlag.ZERO)
        .idstr("pc.ram")
        .u8(0);
    const bytes = zero(0).u64(RamFlag.MULTIFD_FLUSH).raw(zero(PAGE).finish()).finish();
    const decoder = new RamRecordDecoder(BLOCKS, PAGE, sink);
    const next = decoder.decode(bytes, 0, bytes.length, 0);
    expect(decoder.stop).toBe("multifd-flush");
    expect(sink.seen).toHaveLength(1);
    expect(decoder.decode(bytes, next, bytes.length, 0)).toBe(bytes.length);
    expect(decoder.stop).toBe("need-more");
    expect(sink.seen).toHaveLength(2);
  });

  const wrong: readonly (readonly [string, Uint8Array, string])[] = [
    ["an unknown block", new ByteWriter().u64(RamFlag.ZERO).idstr("vga").u8(0).finish(), "malformed"],
    [
      "CONTINUE before any block",
      new ByteWriter()
        .u64(RamFlag.ZERO | RamFlag.CONTINUE)
        .u8(0)
        .finish(),
      "malformed",
    ],
    [
      "an address behind the block",
      new ByteWriter()
        .u64(8 * PAGE + RamFlag.ZERO)
        .idstr("pc.bios")
        .u8(0)
        .finish(),
      "malformed",
    ],
    [
      "two kinds at once",
      new ByteWriter()
        .u64(RamFlag.ZERO | RamFlag.PAGE)
        .idstr("pc.ram")
        .raw(new Uint8Array(PAGE))
        .finish(),
      "malformed",
    ],
    ["a second block list", new ByteWriter().u64(RamFlag.MEM_SIZE).finish(), "malformed"],
    ["no flag", new ByteWriter().u64(0).finish(), "malformed"],
    ["an RDMA hook", new ByteWriter().u64(RamFlag.HOOK).finish(), "unsupported"],
    [
      "another encoding than xbzrle's",
      new ByteWriter().u64(RamFlag.XBZRLE).idstr("pc.ram").u8(2).u16(1).u8(0).finish(),
      "malformed",
    ],
    [
      "a delta longer than a page",
      new ByteWriter()
        .u64(RamFlag.XBZRLE)
        .idstr("pc.ram")
        .u8(1)
        .u16(PAGE + 1)
        .finish(),
      "malformed",
    ],
    [
      "a compressed page of 4 GiB",
      new ByteWriter().u64(RamFlag.COMPRESS_PAGE).idstr("pc.ram").u32(0xffffffff).finish(),
      "malformed",
    ],
  ];
  test.each(wrong)("refuses %s", (_, bytes, code) => {
    const decoder = new RamRecordDecoder(BLOCKS, PAGE, new Recorder());
    expect(() => decoder.decode(bytes, 0, bytes.length, 1000)).toThrow(expect.objectContaining({ code }));
    expect(() => decoder.decode(bytes, 0, bytes.length, 1000)).toThrow(/offset 100\d/);
  });
});
