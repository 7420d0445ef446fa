/**
 * Cuts the byte stream of a monitor into lines.
 *
 * @module
 */
import { MachineError } from "../errors/index.js";

const NEWLINE = 0x0a;

/** Longest line that is accepted, in bytes; QEMU's own largest answer (`query-qmp-schema`) stays far below 1 MiB. */
export const MAX_LINE_BYTES = 64 * 1024 * 1024;

/**
 * Collects chunks and hands out complete lines. Every byte is searched once, however the chunks fall, and a line is
 * decoded only when it is whole, so that a chunk boundary inside a UTF-8 sequence does no harm.
 */
export class LineSplitter {
  readonly #maxBytes: number;
  #parts: Buffer[] = [];
  #bytes = 0;

  /** @param maxBytes - longest line accepted, without its newline */
  constructor(maxBytes: number = MAX_LINE_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /**
   * Takes a chunk and yields the lines it completes, without their newlines (a `\r` before it stays).
   *
   * @throws MachineError `qmp` when a line passes the limit, after the lines before it were yielded
   */
  *push(chunk: Buffer): Generator<string, void, undefined> {
    let from = 0;
    let at = chunk.indexOf(NEWLINE);
    while (at !== -1) {
      const line = this.#append(chunk.subarray(from, at));
      this.#parts = [];
      this.#bytes = 0;
      yield line.length === 1
        ? (line[0] ?? Buffer.alloc(0)).toString("utf8")
        : Buffer.concat(line).toString("utf8");
      from = at + 1;
      at = chunk.indexOf(NEWLINE, from);
    }
    if (from < chunk.length) this.#append(chunk.subarray(from));
  }

  #append(part: Buffer): Buffer[] {
    this.#bytes += part.length;
    if (this.#bytes > this.#maxBytes) {
      this.#parts = [];
      throw new MachineError("qmp", "The monitor sent a line that is too long", {
        expected: `at most ${this.#maxBytes} bytes`,
        actual: `${this.#bytes} bytes and no end`,
      });
    }
    this.#parts.push(part);
    return this.#parts;
  }
}
