import fc from "fast-check";
import { describe, expect, test } from "vitest";

import {
  bitmapBytes,
  ByteReader,
  ByteWriter,
  decodeMappedRamHeader,
  encodeMappedRamHeader,
  MAPPED_RAM_HEADER_BYTES,
  planMappedRamBlock,
} from "../../src/wire/index.js";

const offset = fc.nat(Number.MAX_SAFE_INTEGER);

describe("the mapped-ram header", () => {
  test("round trip", () => {
    fc.assert(
      fc.property(fc.record({ pageSize: offset, bitmapOffset: offset, pagesOffset: offset }), (header) => {
        const writer = new ByteWriter();
        encodeMappedRamHeader(writer, header);
        expect(writer.length).toBe(MAPPED_RAM_HEADER_BYTES);
        expect(decodeMappedRamHeader(new ByteReader(writer.finish()))).toEqual(header);
      }),
    );
  });

  test("a later version, and offsets that no file has", () => {
    const decode = (bytes: Uint8Array) => () => decodeMappedRamHeader(new ByteReader(bytes));
    expect(decode(new ByteWriter().u32(2).u64(0).u64(0).u64(0).finish())).toThrow(
      expect.objectContaining({ code: "unsupported" }),
    );
    expect(
      decode(
        new ByteWriter()
          .u32(1)
          .u64(4096)
          .u64(2n ** 63n)
          .u64(0)
          .finish(),
      ),
    ).toThrow(expect.objectContaining({ code: "limit-exceeded" }));
  });
});

describe("QEMU's layout", () => {
  test("bitmap behind the header, pages on the next MiB, room for all of it", () => {
    fc.assert(
      fc.property(
        fc.nat(2 ** 40),
        fc.integer({ min: 1, max: 2 ** 24 }),
        fc.constantFrom(4096, 8192, 65536),
        (at, pages, pageSize) => {
          const plan = planMappedRamBlock(at, pages * pageSize, pageSize);
          expect(plan.pageSize).toBe(pageSize);
          expect(plan.bitmapOffset).toBe(at + MAPPED_RAM_HEADER_BYTES);
          const bitmapEnd = plan.bitmapOffset + bitmapBytes(pages);
          expect(bitmapBytes(pages) % 8).toBe(0);
          expect(bitmapBytes(pages) * 8).toBeGreaterThanOrEqual(pages);
          expect(plan.pagesOffset % 2 ** 20).toBe(0);
          expect(plan.pagesOffset).toBeGreaterThanOrEqual(bitmapEnd);
          expect(plan.pagesOffset - bitmapEnd).toBeLessThan(2 ** 20);
          expect(plan.endOffset).toBe(plan.pagesOffset + pages * pageSize);
        },
      ),
    );
  });

  test("the first block of a QEMU file", () => {
    // q100-mr-pc of the corpus: bitmap at 142, pages at 1 MiB, the next bitmap at 26214457.
    const first = planMappedRamBlock(142 - 28, 25165824, 4096);
    expect(first).toMatchObject({ bitmapOffset: 142, pagesOffset: 1048576 });
    const name = "/rom@etc/acpi/tables";
    const second = planMappedRamBlock(first.endOffset + 1 + name.length + 8, 131072, 4096);
    expect(second).toMatchObject({ bitmapOffset: 26214457, pagesOffset: 27262976 });
  });
});
