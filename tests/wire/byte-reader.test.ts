import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../src/errors/index.js";
import { ByteReader, ByteWriter } from "../../src/wire/index.js";

type Field =
  | { readonly kind: "u8" | "u16" | "u32"; readonly value: number }
  | { readonly kind: "u64"; readonly value: bigint }
  | { readonly kind: "idstr"; readonly value: string }
  | { readonly kind: "raw"; readonly value: Uint8Array };

const utf8Bytes = (text: string): number => new TextEncoder().encode(text).length;

const field: fc.Arbitrary<Field> = fc.oneof(
  fc.record({ kind: fc.constant("u8" as const), value: fc.nat(0xff) }),
  fc.record({ kind: fc.constant("u16" as const), value: fc.nat(0xffff) }),
  fc.record({ kind: fc.constant("u32" as const), value: fc.nat(0xffffffff) }),
  fc.record({ kind: fc.constant("u64" as const), value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) }),
  fc.record({
    kind: fc.constant("idstr" as const),
    value: fc
      .string({ unit: "grapheme", minLength: 1, maxLength: 60 })
      .filter((text) => utf8Bytes(text) < 256),
  }),
  fc.record({ kind: fc.constant("raw" as const), value: fc.uint8Array({ maxLength: 600 }) }),
);

function write(fields: readonly Field[]): Uint8Array {
  const writer = new ByteWriter(1);
  for (const { kind, value } of fields) {
    if (kind === "u64") writer.u64(value);
    else if (kind === "idstr") writer.idstr(value);
    else if (kind === "raw") writer.raw(value);
    else writer[kind](value);
  }
  expect(writer.finish().length).toBe(writer.length);
  return writer.finish();
}

describe("ByteWriter and ByteReader", () => {
  test("what was written is read", () => {
    fc.assert(
      fc.property(fc.array(field), (fields) => {
        const reader = new ByteReader(write(fields));
        for (const { kind, value } of fields) {
          if (kind === "raw") expect(reader.view(value.length)).toEqual(value);
          else if (kind === "idstr") expect(reader.idstr("name")).toBe(value);
          else expect(reader[kind]()).toBe(value);
        }
        expect(reader.remaining).toBe(0);
      }),
    );
  });

  test("a cut anywhere is a FormatError with its place, and consumes nothing of the field", () => {
    fc.assert(
      fc.property(fc.array(field, { minLength: 1 }), fc.nat(), fc.nat(1 << 20), (fields, cut, baseOffset) => {
        const bytes = write(fields);
        fc.pre(bytes.length > 0);
        const reader = new ByteReader(bytes.subarray(0, cut % bytes.length), baseOffset);
        const readAll = (): void => {
          for (const { kind, value } of fields) {
            if (kind === "raw") reader.view(value.length);
            else if (kind === "idstr") reader.idstr("name");
            else reader[kind]();
          }
        };
        expect(readAll).toThrow(FormatError);
        expect(reader.offset).toBe(baseOffset + reader.position);
        expect(reader.remaining).toBeGreaterThanOrEqual(0);
      }),
    );
  });

  test("big-endian", () => {
    expect([...new ByteWriter().u16(0x0102).u32(0x03040506).u64(0x0708090a0b0c0d0en).finish()]).toEqual(
      Array.from({ length: 14 }, (_, index) => index + 1),
    );
  });

  test("a length above 2^53 is refused", () => {
    const bytes = new ByteWriter().u64(2n ** 53n).finish();
    expect(() => new ByteReader(bytes, 7).u64Number("length")).toThrow(
      expect.objectContaining({ code: "limit-exceeded", data: { offset: 7, actual: 2n ** 53n } }),
    );
    expect(new ByteReader(new ByteWriter().u64(2 ** 53 - 1).finish()).u64Number("length")).toBe(2 ** 53 - 1);
  });

  test("text that is not UTF-8, and empty names", () => {
    expect(() => new ByteReader(Uint8Array.of(2, 0xc3, 0x28)).idstr("name")).toThrow(/not UTF-8/);
    expect(() => new ByteReader(Uint8Array.of(0)).idstr("name")).toThrow(/empty/);
  });

  test("clear keeps nothing", () => {
    const writer = new ByteWriter().u32(7);
    expect([...writer.clear().u8(1).finish()]).toEqual([1]);
  });
});
