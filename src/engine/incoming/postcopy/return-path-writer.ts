import type { ByteSink } from "../../../channels/index.js";
import {
  ByteWriter,
  encodePageRequest,
  encodePong,
  encodeReceivedBitmap,
  encodeResumeAck,
  encodeShut,
} from "../../../wire/index.js";
import type { MissingBlock } from "./missing-pages.js";

/** Answers that may wait to be written before nothing more is read that has to be answered. */
const MOST_WAITING_BYTES = 64 << 10;

/**
 * What a destination says to the source over one connection. Messages go out in order, and those that come while one is
 * written go out together.
 */
export class ReturnPathWriter {
  readonly #sink: ByteSink;
  readonly #onFailure: (error: unknown) => void;
  #waiting = new ByteWriter();
  #spare = new ByteWriter();
  #writing: Promise<void> | undefined;
  /** What is being written of it; never rejects. */
  #piece: Promise<void> = Promise.resolve();
  #failed = false;
  /** The block of the last request: the source remembers it, too. */
  #requestedBlock: MissingBlock | undefined;

  /** @param onFailure Called when writing fails; then nothing more is written. */
  constructor(sink: ByteSink, onFailure: (error: unknown) => void) {
    this.#sink = sink;
    this.#onFailure = onFailure;
  }

  pong(value: number): void {
    encodePong(this.#waiting, value);
    this.#start();
  }

  /** Asks for a host page. */
  request(block: MissingBlock, address: number): void {
    encodePageRequest(this.#waiting, {
      block: block === this.#requestedBlock ? undefined : block.name,
      start: address,
      length: block.hostPageSize,
    });
    this.#requestedBlock = block;
    this.#start();
  }

  /** Says which target pages of a block are there. */
  receivedBitmap(block: string, bitmap: Uint8Array): void {
    encodeReceivedBitmap(this.#waiting, block, bitmap);
    this.#start();
  }

  resumeAck(): void {
    encodeResumeAck(this.#waiting);
    this.#start();
  }

  /** @param result 0 when all is well. */
  shut(result = 0): void {
    encodeShut(this.#waiting, result);
    this.#start();
  }

  /**
   * Resolves when more may be answered, or writing has failed: a source that asks and does not read is read no further. What
   * the guest waits for is said in any case, and bounded by its memory.
   */
  async room(): Promise<void> {
    while (this.#waiting.length > MOST_WAITING_BYTES && !this.#failed) await this.#piece;
  }

  /** Resolves when everything was handed over, or writing has failed. */
  async flushed(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
  }

  #start(): void {
    // What is said over a broken connection is dropped: it grows with what the guest touches.
    if (this.#failed) this.#waiting.clear();
    else this.#writing ??= this.#write();
  }

  async #write(): Promise<void> {
    try {
      // What is said in the same turn goes along.
      await Promise.resolve();
      while (this.#waiting.length > 0) {
        const writer = this.#waiting;
        this.#waiting = this.#spare.clear();
        this.#spare = writer;
        const written = this.#sink.write(writer.finish());
        this.#piece = written.catch(() => undefined);
        await written;
      }
    } catch (error) {
      this.#failed = true;
      this.#onFailure(error);
    }
    this.#writing = undefined;
  }
}
