import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../src/errors/index.js";
import {
  ByteReader,
  ByteWriter,
  type Configuration,
  decodeConfiguration,
  encodeConfiguration,
  formatUuid,
  Limits,
} from "../../src/wire/index.js";

const name = fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 60 });

const configuration: fc.Arbitrary<Configuration> = fc.record(
  {
    machine: name,
    capabilities: fc.array(name, { maxLength: 8 }),
    targetPageBits: fc.integer({ min: 8, max: 16 }),
    uuid: fc.uint8Array({ minLength: 16, maxLength: 16 }),
  },
  { requiredKeys: ["machine", "capabilities"] },
);

/** With the byte behind the configuration that a decoder looks at. */
function encode(value: Configuration): Uint8Array {
  const writer = new ByteWriter();
  encodeConfiguration(writer, value);
  return writer.u8(1).finish();
}

describe("configuration", () => {
  test("round trip", () => {
    fc.assert(
      fc.property(configuration, (value) => {
        const reader = new ByteReader(encode(value));
        expect(decodeConfiguration(reader)).toEqual(value);
        expect(reader.remaining).toBe(1);
      }),
    );
  });

  test("cut anywhere", () => {
    fc.assert(
      fc.property(configuration, fc.nat(), (value, cut) => {
        const bytes = encode(value);
        const decode = (): unknown =>
          decodeConfiguration(new ByteReader(bytes.subarray(0, cut % bytes.length)));
        expect(decode).toThrow(expect.objectContaining({ code: "truncated" }));
      }),
    );
  });

  test("any bytes decode or fail with a FormatError", () => {
    fc.assert(
      fc.property(configuration, fc.nat(), fc.nat(255), (value, at, byte) => {
        const bytes = encode(value);
        bytes[at % bytes.length] = byte;
        try {
          decodeConfiguration(new ByteReader(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
        }
      }),
    );
  });

  const subsection = (writer: ByteWriter, subsectionName: string, version = 1): ByteWriter =>
    writer.u32(1).text("m").u8(5).idstr(subsectionName).u32(version);
  const cases: readonly (readonly [string, Uint8Array, string])[] = [
    ["a machine name of 0 bytes", new ByteWriter().u32(0).u8(0).finish(), "limit-exceeded"],
    ["a machine name of 4 GiB", new ByteWriter().u32(0xffffffff).u8(0).finish(), "limit-exceeded"],
    [
      "an unknown subsection",
      subsection(new ByteWriter(), "configuration/new").u8(0).finish(),
      "unsupported",
    ],
    ["a later version", subsection(new ByteWriter(), "configuration/uuid", 2).u8(0).finish(), "unsupported"],
    [
      "too many capabilities",
      subsection(new ByteWriter(), "configuration/capabilities")
        .u32(Limits.capabilities + 1)
        .finish(),
      "limit-exceeded",
    ],
    [
      "an impossible page size",
      subsection(new ByteWriter(), "configuration/target-page-bits").u32(0xffffffff).finish(),
      "unsupported",
    ],
  ];
  test.each(cases)("%s", (_, bytes, code) => {
    expect(() => decodeConfiguration(new ByteReader(bytes))).toThrow(expect.objectContaining({ code }));
  });

  test("control characters of a file do not reach a terminal", () => {
    const bytes = subsection(new ByteWriter(), "\u001b[31m", 9).u8(0).finish();
    expect(() => decodeConfiguration(new ByteReader(bytes))).toThrow(/\\u\{1b\}/);
  });

  test("a UUID in the usual notation", () => {
    expect(formatUuid(Uint8Array.from({ length: 16 }, (_, index) => index * 17))).toBe(
      "00112233-4455-6677-8899-aabbccddeeff",
    );
  });
});
