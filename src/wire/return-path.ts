import { FormatError, printable } from "../errors/index.js";
import type { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import { Limits, RECEIVED_BITMAP_END, RESUME_ACK_VALUE, ReturnPathMessage } from "./constants.js";

/** A message of the return path, destination to source. */
export interface ReturnPathRecord {
  /** One of {@link ReturnPathMessage}. */
  readonly type: number;
  /** The message's own bytes; the bitmap behind a RECV_BITMAP is not among them: {@link decodeReceivedBitmap}. */
  readonly data: Uint8Array;
}

/** A destination's wish for pages (REQ_PAGES_ID, REQ_PAGES). */
export interface PageRequest {
  /** Undefined for the block of the request before (REQ_PAGES). */
  readonly block: string | undefined;
  /** Offset in the block, in bytes. */
  readonly start: number;
  /** Bytes: one host page, as QEMU asks. */
  readonly length: number;
}

const KNOWN_MESSAGES: ReadonlySet<number> = new Set(Object.values(ReturnPathMessage));
/** `start` be64 and `len` be32. */
const REQUEST_BYTES = 12;

/** Encodes the return path's answer to a PING. */
export function encodePong(writer: ByteWriter, value: number): void {
  writer.u16(ReturnPathMessage.PONG).u16(4).u32(value);
}

/** Encodes the return path's last message; `result` 0 tells the source that the load succeeded. */
export function encodeShut(writer: ByteWriter, result: number): void {
  writer.u16(ReturnPathMessage.SHUT).u16(4).u32(result);
}

/**
 * Encodes a wish for pages: REQ_PAGES_ID with the block's name, or REQ_PAGES for the block that the last one named.
 */
export function encodePageRequest(writer: ByteWriter, { block, start, length }: PageRequest): void {
  if (block === undefined) {
    writer.u16(ReturnPathMessage.REQ_PAGES).u16(REQUEST_BYTES).u64(start).u32(length);
    return;
  }
  const nameBytes = new TextEncoder().encode(block).length;
  writer.u16(ReturnPathMessage.REQ_PAGES_ID).u16(REQUEST_BYTES + 1 + nameBytes);
  writer.u64(start).u32(length).idstr(block);
}

/**
 * Encodes a block's received bitmap with what stands around it: a bit for each target page, in bytes of which the lowest
 * bit comes first, a multiple of 8 of them.
 */
export function encodeReceivedBitmap(writer: ByteWriter, block: string, bitmap: Uint8Array): void {
  const nameBytes = new TextEncoder().encode(block).length;
  writer
    .u16(ReturnPathMessage.RECV_BITMAP)
    .u16(1 + nameBytes)
    .idstr(block);
  writer.u64(bitmap.length).raw(bitmap).u64(RECEIVED_BITMAP_END);
}

/** Encodes the answer to POSTCOPY_RESUME. */
export function encodeResumeAck(writer: ByteWriter): void {
  writer.u16(ReturnPathMessage.RESUME_ACK).u16(4).u32(RESUME_ACK_VALUE);
}

/**
 * Decodes a message of the return path.
 *
 * @throws FormatError `malformed` for a message that no QEMU sends.
 */
export function decodeReturnPathRecord(reader: ByteReader): ReturnPathRecord {
  const offset = reader.offset;
  const type = reader.u16();
  const length = reader.u16();
  if (!KNOWN_MESSAGES.has(type)) {
    throw new FormatError("malformed", "The destination sent an unknown message", { offset, actual: type });
  }
  return { type, data: reader.view(length).slice() };
}

/**
 * Decodes the data of REQ_PAGES_ID or REQ_PAGES; whether there is such a block, and such pages in it, the caller knows.
 *
 * @throws FormatError `malformed` for another length than the message has.
 */
export function decodePageRequest(type: number, reader: ByteReader): PageRequest {
  const offset = reader.offset;
  const start = reader.u64Number("address of a page request");
  const length = reader.u32();
  const block = type === ReturnPathMessage.REQ_PAGES_ID ? reader.idstr("RAM block's name") : undefined;
  expectEnd(reader, "page request", offset);
  return { block, start, length };
}

/** Decodes the data of RECV_BITMAP: the block's name. */
export function decodeReceivedBitmapName(reader: ByteReader): string {
  const { offset } = reader;
  const name = reader.idstr("RAM block's name");
  expectEnd(reader, "announcement of a received bitmap", offset);
  return name;
}

/**
 * Decodes what stands behind a RECV_BITMAP message: length, bitmap, end mark.
 *
 * @param pageCount Target pages of the block: the bitmap must have as many bits, rounded up to whole 64-bit words.
 * @returns A copy of the bitmap's bytes.
 * @throws FormatError `inconsistent` for a bitmap of another length, `malformed` without the end mark.
 */
export function decodeReceivedBitmap(reader: ByteReader, block: string, pageCount: number): Uint8Array {
  const { offset } = reader;
  const bytes = reader.u64();
  const expected = Math.ceil(pageCount / 64) * 8;
  if (bytes !== BigInt(expected) || pageCount > Limits.pages) {
    throw new FormatError(
      "inconsistent",
      `The received bitmap of RAM block ${printable(block)} has another length than the block`,
      { offset, block, expected, actual: bytes },
    );
  }
  const bitmap = reader.view(expected).slice();
  const end = reader.u64();
  if (end === RECEIVED_BITMAP_END) return bitmap;
  throw new FormatError("malformed", "A received bitmap does not end as it must", {
    offset: reader.offset - 8,
    block,
    expected: `0x${RECEIVED_BITMAP_END.toString(16)}`,
    actual: `0x${end.toString(16)}`,
  });
}

/** @throws FormatError `malformed` for another value than QEMU's. */
export function decodeResumeAck(reader: ByteReader): void {
  const { offset } = reader;
  const value = reader.u32();
  if (value === RESUME_ACK_VALUE && reader.remaining === 0) return;
  throw new FormatError("malformed", "The destination did not agree to go on", {
    offset,
    expected: RESUME_ACK_VALUE,
    actual: value,
  });
}

function expectEnd(reader: ByteReader, what: string, offset: number): void {
  if (reader.remaining === 0) return;
  throw new FormatError("malformed", `A ${what} is longer than it can be`, {
    offset,
    actual: `${reader.remaining} bytes more`,
  });
}
