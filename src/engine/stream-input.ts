import type { ByteSource } from "../channels/index.js";
import { FormatError } from "../errors/index.js";
import { ByteReader, Limits } from "../wire/index.js";

const WINDOW_BYTES = 1 << 20;
/** A device section whose end has to be searched for must fit the window, with what follows it. */
const LARGEST_WINDOW_BYTES = Limits.searchedSectionBytes + WINDOW_BYTES;

/**
 * A window that slides over a byte source. Parsers work synchronously on what is in it and ask for more when a record is
 * not whole: one promise a fill, none a record.
 */
export class StreamInput {
  /** The window's buffer; what was read stands between {@link position} and {@link end}. Filling may replace it. */
  bytes = new Uint8Array(WINDOW_BYTES);
  /** Index of the next byte to consume. Whoever consumes moves it. */
  position = 0;
  end = 0;
  readonly #source: ByteSource;
  readonly #startOffset: number;
  #baseOffset: number;

  /** @param startOffset Where the stream starts in its file: offsets count from there. */
  constructor(source: ByteSource, startOffset = 0) {
    this.#source = source;
    this.#startOffset = startOffset;
    this.#baseOffset = startOffset;
  }

  /** Stream offset of `bytes[0]`. */
  get baseOffset(): number {
    return this.#baseOffset;
  }

  /** Stream offset of the next byte. */
  get offset(): number {
    return this.#baseOffset + this.position;
  }

  /** Stream offset behind everything read so far. */
  get endOffset(): number {
    return this.#baseOffset + this.end;
  }

  /** Bytes read from the source so far. */
  get receivedBytes(): number {
    return this.endOffset - this.#startOffset;
  }

  get available(): number {
    return this.end - this.position;
  }

  /**
   * Reads more into the window, behind what is not yet consumed.
   *
   * @returns false when the source has ended.
   * @throws FormatError `limit-exceeded` when a single structure fills the largest window.
   */
  async fill(): Promise<boolean> {
    if (this.position > 0) {
      this.bytes.copyWithin(0, this.position, this.end);
      this.#baseOffset += this.position;
      this.end -= this.position;
      this.position = 0;
    }
    if (this.end === this.bytes.length) this.#grow();
    const count = await this.#source.read(this.bytes.subarray(this.end));
    this.end += count;
    return count > 0;
  }

  /**
   * Decodes one structure from the front of the window, reading more as long as it is cut off.
   *
   * @throws FormatError `truncated` when the source ends inside it, and whatever `decode` throws.
   */
  async parse<T>(decode: (reader: ByteReader) => T): Promise<T> {
    const { value, length } = await this.peekParse(decode);
    this.position += length;
    return value;
  }

  /** Like {@link parse}, without consuming; says how many bytes the structure has. */
  async peekParse<T>(
    decode: (reader: ByteReader) => T,
  ): Promise<{ readonly value: T; readonly length: number }> {
    while (true) {
      const reader = new ByteReader(this.bytes.subarray(this.position, this.end), this.offset);
      try {
        return { value: decode(reader), length: reader.position };
      } catch (error) {
        if (!(error instanceof FormatError) || error.code !== "truncated") throw error;
        if (!(await this.fill())) throw error;
      }
    }
  }

  /** The next byte without consuming it, or undefined at the end. */
  async peek(): Promise<number | undefined> {
    if (this.available === 0 && !(await this.fill())) return undefined;
    return this.bytes[this.position];
  }

  #grow(): void {
    if (this.bytes.length >= LARGEST_WINDOW_BYTES) {
      throw new FormatError(
        "limit-exceeded",
        `A single structure is longer than ${LARGEST_WINDOW_BYTES} bytes`,
        {
          offset: this.offset,
        },
      );
    }
    const larger = new Uint8Array(Math.min(this.bytes.length * 2, LARGEST_WINDOW_BYTES));
    larger.set(this.bytes);
    this.bytes = larger;
  }
}
