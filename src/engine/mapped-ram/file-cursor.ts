import type { RandomAccessSource } from "../../channels/index.js";
import { FormatError } from "../../errors/index.js";
import { ByteReader, Limits } from "../../wire/index.js";

const FIRST_READ_BYTES = 4096;
/** Small structures that follow each other are served from one read. */
const CHUNK_BYTES = 64 << 10;

/** Decodes one structure after the other from a file, and jumps where the format does. */
export class FileCursor {
  /** Absolute offset of the next byte. */
  position: number;
  readonly #file: RandomAccessSource;
  #chunk = new Uint8Array();
  #chunkPosition = 0;

  constructor(file: RandomAccessSource, position: number) {
    this.#file = file;
    this.position = position;
  }

  /**
   * Decodes a structure at the cursor and moves behind it. Reads a little first, and more as long as it is cut off.
   *
   * @throws FormatError `truncated` when the file ends inside it, and whatever `decode` throws.
   */
  parse<T>(decode: (reader: ByteReader) => T): T {
    for (let length = FIRST_READ_BYTES; ; length *= 8) {
      const wanted = Math.min(length, Math.max(0, this.#file.sizeBytes - this.position));
      const reader = new ByteReader(this.read(this.position, wanted), this.position);
      try {
        const value = decode(reader);
        this.position += reader.position;
        return value;
      } catch (error) {
        const hopeless = wanted < length || length > Limits.searchedSectionBytes;
        if (!(error instanceof FormatError) || error.code !== "truncated" || hopeless) throw error;
      }
    }
  }

  /** The byte at the cursor, which stays; undefined at the end of the file. */
  peek(): number | undefined {
    return this.read(this.position, 1)[0];
  }

  /** Up to `length` bytes at `position`: fewer only at the end of the file. Valid until the next call. */
  read(position: number, length: number): Uint8Array {
    // Past the end a position may even be beyond what the system takes.
    if (position >= this.#file.sizeBytes) return new Uint8Array();
    const inChunk = position - this.#chunkPosition;
    if (inChunk >= 0 && inChunk + length <= this.#chunk.length)
      return this.#chunk.subarray(inChunk, inChunk + length);
    const bytes = new Uint8Array(Math.max(length, CHUNK_BYTES));
    this.#chunk = bytes.subarray(0, this.#file.readAt(bytes, position));
    this.#chunkPosition = position;
    return this.#chunk.subarray(0, length);
  }
}
