import { describe, expect, test } from "vitest";

import {
  ByteWriter,
  encodeEndOfSection,
  encodeSectionFooter,
  RamFlag,
  SectionType,
  searchTargetPageSize,
} from "../../src/wire/index.js";

const RAM_ID = 2;
const NAME = new TextEncoder().encode("ram0");

interface StreamOptions {
  readonly pageSize: number;
  readonly pages: number;
  /** Fill of each page; 0 is a zero record. */
  readonly fill?: (page: number) => number;
  readonly footers?: boolean;
}

/** What follows the block list: the START's end, a PART with all pages in order, and the END. */
function buildRecords({ pageSize, pages, fill = () => 0, footers = true }: StreamOptions): Uint8Array {
  const writer = new ByteWriter();
  const endSection = (): void => {
    encodeEndOfSection(writer);
    if (footers) encodeSectionFooter(writer, RAM_ID);
  };
  endSection();
  writer.u8(SectionType.PART);
  writer.u32(RAM_ID);
  for (let page = 0; page < pages; page++) {
    const value = fill(page);
    writer.u64(
      (value === 0 ? RamFlag.ZERO : RamFlag.PAGE) | (page === 0 ? 0 : RamFlag.CONTINUE) | (page * pageSize),
    );
    if (page === 0) {
      writer.u8(NAME.length);
      writer.raw(NAME);
    }
    if (value === 0) writer.u8(0);
    else writer.raw(new Uint8Array(pageSize).fill(value));
  }
  endSection();
  writer.u8(SectionType.END);
  writer.u32(RAM_ID);
  endSection();
  writer.u8(SectionType.EOF);
  return writer.finish();
}

function search(bytes: Uint8Array, usedLength: number): ReturnType<typeof searchTargetPageSize> {
  return searchTargetPageSize(bytes, { blocks: [{ name: "ram0", usedLength }], ramSectionId: RAM_ID });
}

describe("searchTargetPageSize", () => {
  const sizes = [256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];
  const fills = [
    ["zero", () => 0],
    ["full", () => 0xa5],
    ["mixed", (page: number) => (page % 3 === 0 ? 0x11 : 0)],
  ] as const;

  test.each(sizes.flatMap((size) => fills.map(([what, fill]) => [size, what, fill] as const)))(
    "%d bytes, %s pages",
    (pageSize, _what, fill) => {
      const pages = 128;
      const bytes = buildRecords({ pageSize, pages, fill });
      expect(search(bytes, pages * pageSize)).toBe(pageSize);
      const bare = buildRecords({ pageSize, pages, fill, footers: false });
      expect(search(bare, pages * pageSize)).toBe(pageSize);
    },
  );

  test.each(sizes)("%d bytes: however few have come, no other size is said", (pageSize) => {
    const pages = 70;
    const bytes = buildRecords({ pageSize, pages, fill: (page) => (page % 2 === 0 ? 0x7e : 0) });
    for (let end = 0; end < 3 * pageSize + 200; end += 1 + Math.floor(end / 512) * 64) {
      expect([pageSize, "need-more"]).toContain(search(bytes.subarray(0, end), pages * pageSize));
    }
  });

  test("does not wait for what never comes: RAM has ended", () => {
    expect(search(buildRecords({ pageSize: 4096, pages: 0 }), 0)).toBe(4096);
    expect(search(buildRecords({ pageSize: 4096, pages: 1 }), 4096)).toBe(4096);
    expect(search(buildRecords({ pageSize: 1024, pages: 1, fill: () => 1 }), 1024)).toBe(1024);
  });

  test("one page of 4096 bytes is told by the second record already: a slow source is not waited for", () => {
    const bytes = buildRecords({ pageSize: 4096, pages: 2, fill: () => 1 });
    expect(search(bytes, 8192)).toBe(4096);
    expect(search(bytes.subarray(0, 13 + 5 + 8 + 5 + 4096 + 8 + 4096), 1 << 20)).toBe(4096);
  });

  test("pages that make no sense with any size", () => {
    expect(search(new Uint8Array(200).fill(0xff), 1 << 20)).toBeUndefined();
    expect(search(buildRecords({ pageSize: 4096, pages: 4 }), 4097)).toBeUndefined();
  });
});
