import { assert, FormatError, printable } from "../errors/index.js";
import { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import { MULTIFD_MAGIC, MULTIFD_PACKET_SIZE, MULTIFD_VERSION, MultifdFlag } from "./constants.js";

/** What each extra connection of a multifd migration begins with (`MultiFDInit_t` in QEMU's multifd.c). */
export interface MultifdHello {
  /** 16 bytes: the source machine's uuid, zeros when it has none. A destination refuses any but its own. */
  readonly uuid: Uint8Array;
  /** The channel's number, from 0. Connections may arrive in any order. */
  readonly id: number;
}

/** Bytes of a {@link MultifdHello}: magic, version, uuid, id, and 39 that are reserved. */
export const MULTIFD_HELLO_BYTES = 64;
const HELLO_RESERVED_BYTES = 7 + 4 * 8;
const UUID_BYTES = 16;

/** How the pages of a packet are compressed (`multifd-compression`). */
export type MultifdCompression = "none" | "zlib" | "zstd";

/** The head of a RAM packet (`MultiFDPacket_t` in QEMU's multifd.h), without the places of its pages. */
export interface MultifdPacket {
  /** The channel is at the end of a round, or of a section. QEMU before 9.0 sends pages in such packets too. */
  readonly sync: boolean;
  readonly compression: MultifdCompression;
  readonly normalPages: number;
  /** Their places stand behind those of the normal pages; before QEMU 9.0 there are none. */
  readonly zeroPages: number;
  /** Bytes that follow the head: the normal pages one after the other, or one piece of compressed data. */
  readonly payloadBytes: number;
  /** Counts the packets of all channels. */
  readonly packetNumber: number;
  /** Name of the RAM block that all of its pages are in; empty when it has none. */
  readonly block: string;
}

const HEAD_BYTES = 320;
const RAMBLOCK_BYTES = 256;
/** A compressed packet of incompressible pages is a little longer than they are; QEMU's buffers are twice their length. */
const MOST_COMPRESSED_BYTES = 2 * MULTIFD_PACKET_SIZE;
const COMPRESSION_FLAG = {
  none: MultifdFlag.NOCOMP,
  zlib: MultifdFlag.ZLIB,
  zstd: MultifdFlag.ZSTD,
} as const;
/** Those that need a special library or an accelerator, by QEMU's name. */
const OTHER_COMPRESSIONS = new Map<number, string>([
  [MultifdFlag.QPL, "qpl"],
  [MultifdFlag.UADK, "uadk"],
  [MultifdFlag.QATZIP, "qatzip"],
]);

/** How many pages a packet has room for. */
export function multifdPagesPerPacket(pageSize: number): number {
  return MULTIFD_PACKET_SIZE / pageSize;
}

/** Bytes of a packet's head with the room for the places of its pages: the same for every packet of a migration. */
export function multifdPacketHeadBytes(pageSize: number): number {
  return HEAD_BYTES + 8 * multifdPagesPerPacket(pageSize);
}

/**
 * Decodes what an extra connection begins with.
 *
 * @throws FormatError when it is none of a multifd migration.
 */
export function decodeMultifdHello(bytes: Uint8Array): MultifdHello {
  const reader = new ByteReader(bytes);
  checkMagic(reader);
  const uuid = reader.view(UUID_BYTES).slice();
  return { uuid, id: reader.u8() };
}

/** Encodes what an extra connection begins with. */
export function encodeMultifdHello(writer: ByteWriter, { uuid, id }: MultifdHello): void {
  assert(uuid.length === UUID_BYTES, "a uuid has 16 bytes");
  writer.u32(MULTIFD_MAGIC).u32(MULTIFD_VERSION).raw(uuid).u8(id).raw(new Uint8Array(HELLO_RESERVED_BYTES));
}

/**
 * Decodes the head of a packet; {@link decodeMultifdPlaces} reads the rest of `bytes`.
 *
 * @param bytes {@link multifdPacketHeadBytes} of them.
 * @param offset Where in the channel they stand, for errors.
 * @throws FormatError `malformed`; `unsupported` for device state and for compression by accelerators.
 */
export function decodeMultifdPacket(bytes: Uint8Array, pageSize: number, offset = 0): MultifdPacket {
  const reader = new ByteReader(bytes, offset);
  checkMagic(reader);
  const flags = reader.u32();
  const compression = decodeCompression(flags, offset);
  const allocated = reader.u32();
  const normalPages = reader.u32();
  // QEMU 7.2 leaves the length of an earlier packet in those that have no pages; nothing follows them.
  const payloadBytes = readPayloadBytes(reader, normalPages);
  const packetNumber = Number(reader.u64());
  const zeroPages = reader.u32();
  reader.position = HEAD_BYTES - RAMBLOCK_BYTES;
  const room = multifdPagesPerPacket(pageSize);
  if (allocated > room) {
    throw new FormatError(
      "inconsistent",
      "The packets of the migration have room for more pages than they can",
      {
        offset,
        expected: `at most ${room} pages of ${pageSize} bytes`,
        actual: allocated,
        hint: "say the guest's target page size with --target-page-size",
      },
    );
  }
  // A packet that only syncs has the room for pages, and nothing in it.
  if (normalPages + zeroPages > allocated) {
    throw new FormatError("malformed", "A multifd packet has more pages than it has room for", {
      offset,
      expected: `at most ${allocated}`,
      actual: normalPages + zeroPages,
    });
  }
  checkPayload(compression, payloadBytes, normalPages * pageSize, offset);
  const block = normalPages + zeroPages === 0 ? "" : decodeBlockName(reader.view(RAMBLOCK_BYTES), offset);
  const sync = (flags & MultifdFlag.SYNC) !== 0;
  return { sync, compression, normalPages, zeroPages, payloadBytes, packetNumber, block };
}

/**
 * Decodes where the pages of a packet lie in their block: first the normal ones, then the zero pages.
 *
 * @param bytes The whole head of the packet.
 * @param places Takes them, in bytes from the block's begin; of {@link multifdPagesPerPacket} numbers.
 * @throws FormatError for a page that is not one of the block's.
 */
export function decodeMultifdPlaces(
  bytes: Uint8Array,
  { normalPages, zeroPages, block }: MultifdPacket,
  { usedLength, pageSize }: { readonly usedLength: number; readonly pageSize: number },
  places: Float64Array,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let index = 0; index < normalPages + zeroPages; index++) {
    const at = HEAD_BYTES + 8 * index;
    const low = view.getUint32(at + 4);
    const place = view.getUint32(at) * 0x1_0000_0000 + low;
    // Page sizes are powers of two. The remainder of a number above 2^31 is a call of a C function: 20 ns for each page.
    if ((low & (pageSize - 1)) !== 0 || place >= usedLength) {
      throw new FormatError("malformed", "A multifd packet has a page that its block has not", {
        section: "ram",
        block,
        expected: `a multiple of ${pageSize} below ${usedLength}`,
        actual: place,
      });
    }
    places[index] = place;
  }
}

/**
 * Encodes the head of a packet.
 *
 * @param places Of the normal pages and behind them of the zero pages, in bytes; only as many as the packet has are read.
 */
export function encodeMultifdPacket(
  target: Uint8Array,
  packet: MultifdPacket,
  places: Float64Array,
  pageSize: number,
): void {
  const { normalPages, zeroPages, payloadBytes, packetNumber, compression, block, sync } = packet;
  const pages = normalPages + zeroPages;
  assert(target.length === multifdPacketHeadBytes(pageSize), "the head of a packet has one length");
  assert(pages <= multifdPagesPerPacket(pageSize), "a packet has no more pages than it has room for");
  target.fill(0);
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  view.setUint32(0, MULTIFD_MAGIC);
  view.setUint32(4, MULTIFD_VERSION);
  view.setUint32(8, COMPRESSION_FLAG[compression] | (sync ? MultifdFlag.SYNC : 0));
  view.setUint32(12, multifdPagesPerPacket(pageSize));
  view.setUint32(16, normalPages);
  view.setUint32(20, payloadBytes);
  view.setBigUint64(24, BigInt(packetNumber));
  view.setUint32(32, zeroPages);
  // Ends with a zero: QEMU looks for one.
  const { written, read } = new TextEncoder().encodeInto(
    block,
    target.subarray(HEAD_BYTES - RAMBLOCK_BYTES, HEAD_BYTES - 1),
  );
  assert(read === block.length && written < RAMBLOCK_BYTES, "a block's name has at most 255 bytes");
  for (let index = 0; index < pages; index++) {
    const place = places[index] ?? 0;
    view.setUint32(HEAD_BYTES + 8 * index, Math.floor(place / 0x1_0000_0000));
    view.setUint32(HEAD_BYTES + 8 * index + 4, place % 0x1_0000_0000);
  }
}

function checkMagic(reader: ByteReader): void {
  const { offset } = reader;
  const magic = reader.u32();
  const version = reader.u32();
  if (magic === MULTIFD_MAGIC && version === MULTIFD_VERSION) return;
  throw new FormatError(
    "malformed",
    "What came over an extra connection is no packet of a multifd migration",
    {
      offset,
      expected: `0x${MULTIFD_MAGIC.toString(16)}, version ${MULTIFD_VERSION}`,
      actual: `0x${magic.toString(16)}, version ${version}`,
    },
  );
}

function decodeCompression(flags: number, offset: number): MultifdCompression {
  if ((flags & MultifdFlag.DEVICE_STATE) !== 0) {
    throw new FormatError("unsupported", "The source sends the state of a device over a multifd channel", {
      offset,
      hint: "turn x-migration-multifd-transfer off for its VFIO devices",
    });
  }
  const bits = flags & MultifdFlag.COMPRESSION_MASK;
  if (bits === MultifdFlag.NOCOMP) return "none";
  if (bits === MultifdFlag.ZLIB) return "zlib";
  if (bits === MultifdFlag.ZSTD) return "zstd";
  throw new FormatError("unsupported", "The pages are compressed in a way that ramport does not read", {
    offset,
    actual: OTHER_COMPRESSIONS.get(bits) ?? `flags 0x${flags.toString(16)}`,
    hint: "set multifd-compression to none, zlib or zstd at the source",
  });
}

function readPayloadBytes(reader: ByteReader, normalPages: number): number {
  const length = reader.u32();
  return normalPages === 0 ? 0 : length;
}

function checkPayload(
  compression: MultifdCompression,
  payloadBytes: number,
  pageBytes: number,
  offset: number,
): void {
  const isRaw = compression === "none" || pageBytes === 0;
  if (isRaw ? payloadBytes === pageBytes : payloadBytes > 0 && payloadBytes <= MOST_COMPRESSED_BYTES) return;
  throw new FormatError("malformed", "A multifd packet has another length than its pages", {
    offset,
    expected: isRaw ? pageBytes : `1 to ${MOST_COMPRESSED_BYTES} for ${pageBytes} bytes`,
    actual: payloadBytes,
  });
}

function decodeBlockName(bytes: Uint8Array, offset: number): string {
  const end = bytes.indexOf(0);
  const name = bytes.subarray(0, end < 0 ? RAMBLOCK_BYTES - 1 : end);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(name);
  } catch (cause) {
    const actual = printable(new TextDecoder().decode(name));
    throw new FormatError(
      "malformed",
      "The RAM block of a multifd packet has no UTF-8 name",
      { offset, actual },
      cause,
    );
  }
}
