import { FormatError } from "../errors/index.js";
import type { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import { MAPPED_RAM_HEADER_VERSION, MAPPED_RAM_PAGES_ALIGNMENT } from "./constants.js";

/** The header that follows each entry of the block list in a mapped-ram file (`MappedRamHeader` in QEMU's ram.c). */
export interface MappedRamHeader {
  /** Target page size in bytes: says how many pages the bitmap covers. */
  readonly pageSize: number;
  /** Absolute file offset of the block's bitmap; 0 with `pagesOffset` 0 for a block that was left out. */
  readonly bitmapOffset: number;
  /** Absolute file offset of the block's page 0. */
  readonly pagesOffset: number;
}

/** Bytes of the header on the wire: be32 version and three be64. */
export const MAPPED_RAM_HEADER_BYTES = 28;

/**
 * Decodes a block's mapped-ram header. Only the fields by themselves are checked: whether the offsets make sense
 * depends on the file.
 *
 * @throws FormatError `unsupported` for a later header version, `limit-exceeded` for offsets above 2^53.
 */
export function decodeMappedRamHeader(reader: ByteReader): MappedRamHeader {
  const offset = reader.offset;
  const version = reader.u32();
  if (version !== MAPPED_RAM_HEADER_VERSION) {
    throw new FormatError("unsupported", "The mapped-ram header has an unknown version", {
      offset,
      expected: MAPPED_RAM_HEADER_VERSION,
      actual: version,
    });
  }
  return {
    pageSize: reader.u64Number("mapped-ram page size"),
    bitmapOffset: reader.u64Number("bitmap's offset"),
    pagesOffset: reader.u64Number("pages' offset"),
  };
}

/** Encodes a block's mapped-ram header. */
export function encodeMappedRamHeader(writer: ByteWriter, header: MappedRamHeader): void {
  writer.u32(MAPPED_RAM_HEADER_VERSION).u64(header.pageSize).u64(header.bitmapOffset).u64(header.pagesOffset);
}

/** Bytes of a block's bitmap: one bit a page, in whole 64-bit words (QEMU's `unsigned long` arrays). */
export function bitmapBytes(pageCount: number): number {
  return Math.ceil(pageCount / 64) * 8;
}

/**
 * Where QEMU puts a block's bitmap and pages when its header starts at `headerOffset`: the bitmap right behind the
 * header, the pages on the next 1 MiB boundary, the next list entry behind the pages.
 */
export function planMappedRamBlock(
  headerOffset: number,
  usedLength: number,
  pageSize: number,
): MappedRamHeader & { readonly endOffset: number } {
  const bitmapOffset = headerOffset + MAPPED_RAM_HEADER_BYTES;
  const bitmapEnd = bitmapOffset + bitmapBytes(usedLength / pageSize);
  const pagesOffset = Math.ceil(bitmapEnd / MAPPED_RAM_PAGES_ALIGNMENT) * MAPPED_RAM_PAGES_ALIGNMENT;
  return { pageSize, bitmapOffset, pagesOffset, endOffset: pagesOffset + usedLength };
}
