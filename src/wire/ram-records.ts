import { FormatError } from "../errors/index.js";
import type { ByteWriter } from "./byte-writer.js";
import { RAM_FLAGS_KNOWN, RamFlag } from "./constants.js";

/** Receives the RAM records of a stream. `bytes` is the decoder's input: it is overwritten after the call returns. */
export interface RamRecordSink {
  /**
   * A whole target page at `bytes[at]`.
   *
   * @param address The page's offset in the block, in bytes.
   * @param offset Where in the stream the page's bytes are; absent when they are not there as such.
   */
  page(block: number, address: number, bytes: Uint8Array, at: number, offset?: number): void;
  /** A page of zeros; `offset` is where in the stream its record begins, as in the two below. */
  zeroPage(block: number, address: number, offset?: number): void;
  /** An xbzrle delta of `length` bytes over what this sink received for the page before. */
  xbzrlePage(
    block: number,
    address: number,
    bytes: Uint8Array,
    at: number,
    length: number,
    offset?: number,
  ): void;
  /** A zlib-compressed page of `length` bytes (QEMU before 9.1). */
  compressedPage(
    block: number,
    address: number,
    bytes: Uint8Array,
    at: number,
    length: number,
    offset?: number,
  ): void;
}

/** Why {@link RamRecordDecoder.decode} returned. */
export type RamDecodeStop =
  /** The next record is not whole in the bytes given. */
  | "need-more"
  /** The EOS record was consumed. */
  | "end-of-section"
  /** A MULTIFD_FLUSH record was consumed: the channels have to be synced before more is decoded. */
  | "multifd-flush";

const XBZRLE_ENCODING = 1;
const RECORD_HEAD_BYTES = 8;
const utf8 = new TextDecoder("utf-8", { fatal: false });

/**
 * Decodes the records of the RAM section. It keeps which block CONTINUE refers to across sections and calls, as a
 * destination does for each channel, and consumes only whole records: the caller brings an incomplete one again with
 * more bytes behind it.
 *
 * Nothing is allocated per page.
 */
export class RamRecordDecoder {
  /** Set by {@link decode}. */
  stop: RamDecodeStop = "need-more";
  readonly #blocks: readonly { readonly name: string; readonly usedLength: number }[];
  readonly #indexByName: ReadonlyMap<string, number>;
  readonly #pageSize: number;
  readonly #sink: RamRecordSink;
  #current: number;
  #filled: Uint8Array | undefined;

  /**
   * @param pageSize Target page size in bytes; it also says where the flags end and the address begins.
   * @param currentBlock What the first record may continue: {@link currentBlock} of the decoder before it, or -1.
   */
  constructor(
    blocks: readonly { readonly name: string; readonly usedLength: number }[],
    pageSize: number,
    sink: RamRecordSink,
    currentBlock = -1,
  ) {
    this.#current = currentBlock;
    this.#blocks = blocks;
    this.#indexByName = new Map(blocks.map((block, index) => [block.name, index]));
    this.#pageSize = pageSize;
    this.#sink = sink;
  }

  /** Place in the list of the block that was named last, which a record may continue; -1 before any. */
  get currentBlock(): number {
    return this.#current;
  }

  /**
   * Decodes whole records from `bytes[start]` up to `end`, until one is incomplete or the section ends.
   *
   * @param baseOffset Stream offset of `bytes[0]`, for errors.
   * @returns The index of the first byte not consumed; {@link stop} says why it stopped there.
   * @throws FormatError at a record that cannot be.
   */
  decode(bytes: Uint8Array, start: number, end: number, baseOffset: number): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const pageSize = this.#pageSize;
    const flagMask = pageSize - 1;
    let position = start;
    while (end - position >= RECORD_HEAD_BYTES) {
      const low = view.getUint32(position + 4);
      const flags = low & flagMask;
      if (flags === RamFlag.EOS) {
        this.stop = "end-of-section";
        return position + RECORD_HEAD_BYTES;
      }
      if (flags === RamFlag.MULTIFD_FLUSH) {
        this.stop = "multifd-flush";
        return position + RECORD_HEAD_BYTES;
      }
      let at = position + RECORD_HEAD_BYTES;
      if ((flags & RamFlag.CONTINUE) === 0 && (flags & BLOCK_FLAGS) !== 0) {
        if (at >= end) break;
        const nameLength = view.getUint8(at);
        if (at + 1 + nameLength > end) break;
        this.#selectBlock(bytes.subarray(at + 1, at + 1 + nameLength), baseOffset + at);
        at += 1 + nameLength;
      }
      const address = view.getUint32(position) * 0x1_0000_0000 + (low - flags);
      const kind = flags & ~RamFlag.CONTINUE;
      if (kind === RamFlag.PAGE) {
        if (end - at < pageSize) break;
        const block = this.#checkedBlock(address, baseOffset + position);
        this.#sink.page(block, address, bytes, at, baseOffset + at);
        position = at + pageSize;
      } else if (kind === RamFlag.ZERO) {
        if (at >= end) break;
        const offset = baseOffset + position;
        this.#fillPage(this.#checkedBlock(address, offset), address, view.getUint8(at), offset);
        position = at + 1;
      } else {
        const next = this.#decodeRare(kind, address, bytes, view, at, end, baseOffset, position);
        if (next < 0) break;
        position = next;
      }
    }
    this.stop = "need-more";
    return position;
  }

  /** Records that ordinary streams do not have. Returns -1 when the record is not whole. */
  #decodeRare(
    kind: number,
    address: number,
    bytes: Uint8Array,
    view: DataView,
    at: number,
    end: number,
    baseOffset: number,
    position: number,
  ): number {
    const offset = baseOffset + position;
    if (kind === RamFlag.XBZRLE) {
      if (end - at < 3) return -1;
      const encoding = view.getUint8(at);
      const length = view.getUint16(at + 1);
      this.#checkEncodedLength(encoding === XBZRLE_ENCODING, "xbzrle", length, this.#pageSize, offset);
      if (end - at - 3 < length) return -1;
      this.#sink.xbzrlePage(this.#checkedBlock(address, offset), address, bytes, at + 3, length, offset);
      return at + 3 + length;
    }
    if (kind === RamFlag.COMPRESS_PAGE) {
      if (end - at < 4) return -1;
      const length = view.getUint32(at);
      // compressBound() of zlib: what an incompressible page grows to.
      const most = this.#pageSize + (this.#pageSize >> 9) + 64;
      this.#checkEncodedLength(true, "compressed", length, most, offset);
      if (end - at - 4 < length) return -1;
      this.#sink.compressedPage(this.#checkedBlock(address, offset), address, bytes, at + 4, length, offset);
      return at + 4 + length;
    }
    const place = { offset, section: "ram" };
    if ((kind & RamFlag.HOOK) !== 0) {
      throw new FormatError(
        "unsupported",
        "The stream was made for RDMA, which ramport does not read",
        place,
      );
    }
    throw new FormatError("malformed", "A RAM record has impossible flags", {
      ...place,
      expected: `flags within 0x${RAM_FLAGS_KNOWN.toString(16)} that go together`,
      actual: `0x${kind.toString(16)}`,
    });
  }

  #checkEncodedLength(known: boolean, what: string, length: number, most: number, offset: number): void {
    if (known && length <= most) return;
    throw new FormatError("malformed", `A ${what} page has an impossible encoding or length`, {
      offset,
      section: "ram",
      expected: `at most ${most} bytes`,
      actual: length,
    });
  }

  #selectBlock(name: Uint8Array, offset: number): void {
    const text = utf8.decode(name);
    const index = this.#indexByName.get(text);
    if (index === undefined) {
      throw new FormatError("malformed", "A RAM record names a block that is not in the block list", {
        offset,
        section: "ram",
        block: text,
      });
    }
    this.#current = index;
  }

  #checkedBlock(address: number, offset: number): number {
    const block = this.#blocks[this.#current];
    if (block === undefined) {
      throw new FormatError("malformed", "A RAM record continues a block before any was named", {
        offset,
        section: "ram",
      });
    }
    if (address >= block.usedLength) {
      throw new FormatError("malformed", "A RAM record lies past the end of its block", {
        offset,
        section: "ram",
        block: block.name,
        expected: `an address below ${block.usedLength}`,
        actual: address,
      });
    }
    return this.#current;
  }

  #fillPage(block: number, address: number, fill: number, offset: number): void {
    if (fill === 0) {
      this.#sink.zeroPage(block, address, offset);
      return;
    }
    // No QEMU in use sends this, but every QEMU reads it.
    this.#filled ??= new Uint8Array(this.#pageSize);
    this.#sink.page(block, address, this.#filled.fill(fill), 0);
  }
}

const BLOCK_FLAGS = RamFlag.PAGE | RamFlag.ZERO | RamFlag.XBZRLE | RamFlag.COMPRESS_PAGE;

/** Encodes the record that ends each part of the RAM section. */
export function encodeEndOfSection(writer: ByteWriter): void {
  writer.u64(RamFlag.EOS);
}

/** Encodes the record at which a loader waits for its multifd channels. */
export function encodeMultifdFlush(writer: ByteWriter): void {
  writer.u64(RamFlag.MULTIFD_FLUSH);
}

/** Bytes of the head of a page record: be64, and the block's name unless the record continues a block. */
export function ramRecordHeadBytes(blockName: Uint8Array | undefined): number {
  return RECORD_HEAD_BYTES + (blockName === undefined ? 0 : 1 + blockName.length);
}

/**
 * Writes the head of a page or zero record into a buffer; the hot path of sending.
 *
 * @param blockName The block's name as UTF-8, or undefined to continue the block of the record before.
 * @returns The index behind the head.
 */
export function writeRamRecordHead(
  view: DataView,
  at: number,
  address: number,
  flag: typeof RamFlag.PAGE | typeof RamFlag.ZERO | typeof RamFlag.XBZRLE,
  blockName: Uint8Array | undefined,
): number {
  const flags = blockName === undefined ? flag | RamFlag.CONTINUE : flag;
  // A remainder is a call of a C function, for each page.
  const low = address >>> 0;
  view.setUint32(at, (address - low) / 0x1_0000_0000);
  view.setUint32(at + 4, low + flags);
  let next = at + RECORD_HEAD_BYTES;
  if (blockName !== undefined) {
    view.setUint8(next, blockName.length);
    new Uint8Array(view.buffer, view.byteOffset).set(blockName, next + 1);
    next += 1 + blockName.length;
  }
  return next;
}
