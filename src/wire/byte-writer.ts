import { assert } from "../errors/index.js";

const utf8 = new TextEncoder();

/** Builds a run of big-endian fields in a buffer that grows. */
export class ByteWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(initialCapacity = 256) {
    this.#bytes = new Uint8Array(initialCapacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#length;
  }

  /** What was written: a view that the next write may leave stale. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Forgets what was written and keeps the buffer. */
  clear(): this {
    this.#length = 0;
    return this;
  }

  u8(value: number): this {
    const at = this.#grow(1);
    this.#view.setUint8(at, value);
    return this;
  }

  u16(value: number): this {
    const at = this.#grow(2);
    this.#view.setUint16(at, value);
    return this;
  }

  u32(value: number): this {
    const at = this.#grow(4);
    this.#view.setUint32(at, value);
    return this;
  }

  u64(value: number | bigint): this {
    const at = this.#grow(8);
    this.#view.setBigUint64(at, BigInt(value));
    return this;
  }

  raw(bytes: Uint8Array): this {
    const at = this.#grow(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }

  /** UTF-8 text without a length. */
  text(value: string): this {
    return this.raw(utf8.encode(value));
  }

  /** A length byte and the text: QEMU's `idstr`. */
  idstr(value: string): this {
    const bytes = utf8.encode(value);
    assert(bytes.length > 0 && bytes.length < 256, `an idstr holds 1 to 255 bytes, not ${bytes.length}`);
    return this.u8(bytes.length).raw(bytes);
  }

  /** May replace buffer and view: take its result before using either. */
  #grow(extra: number): number {
    const start = this.#length;
    const needed = start + extra;
    if (needed > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
      larger.set(this.#bytes.subarray(0, start));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    this.#length = needed;
    return start;
  }
}
