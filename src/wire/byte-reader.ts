import { FormatError } from "../errors/index.js";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Reads big-endian fields from bytes, forwards, never past the end. All of QEMU's stream is big-endian.
 *
 * Each method throws FormatError `truncated` with the absolute offset when the bytes end too early.
 */
export class ByteReader {
  /** Index of the next byte in {@link bytes}. */
  position = 0;
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  readonly #baseOffset: number;

  /** @param baseOffset Where `bytes[0]` stands in the file or stream: only for the places in errors. */
  constructor(bytes: Uint8Array, baseOffset = 0) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#baseOffset = baseOffset;
  }

  /** Absolute offset of the next byte. */
  get offset(): number {
    return this.#baseOffset + this.position;
  }

  get remaining(): number {
    return this.bytes.length - this.position;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8));
  }

  /**
   * A be64 length, offset or address as a number.
   *
   * @throws FormatError `limit-exceeded` above 2^53 - 1: no file or guest is that large, the field is damaged.
   */
  u64Number(what: string): number {
    const offset = this.offset;
    const value = this.u64();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new FormatError("limit-exceeded", `The ${what} is absurdly large`, { offset, actual: value });
    }
    return Number(value);
  }

  /** A view of the next `length` bytes: no copy, valid as long as the underlying buffer. */
  view(length: number): Uint8Array {
    const start = this.#take(length);
    return this.bytes.subarray(start, start + length);
  }

  /** Text of `length` bytes; `what` names it in the error for bytes that are not UTF-8. */
  text(length: number, what: string): string {
    const offset = this.offset;
    const bytes = this.view(length);
    try {
      return utf8.decode(bytes);
    } catch (cause) {
      throw new FormatError("malformed", `The ${what} is not UTF-8 text`, { offset }, cause);
    }
  }

  /** A length byte and that much text: QEMU's `idstr`. Never empty: QEMU names everything it sends. */
  idstr(what: string): string {
    const offset = this.offset;
    const length = this.u8();
    if (length === 0) throw new FormatError("malformed", `The ${what} is empty`, { offset });
    return this.text(length, what);
  }

  #take(length: number): number {
    const start = this.position;
    if (length > this.bytes.length - start) {
      throw new FormatError("truncated", "The data ends in the middle of a field", {
        offset: this.offset,
        expected: `${length} bytes`,
        actual: `${this.bytes.length - start} bytes`,
      });
    }
    this.position = start + length;
    return start;
  }
}
