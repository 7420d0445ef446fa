import { setImmediate as nextTurn } from "node:timers/promises";

import { CancelledError } from "../errors/index.js";
import type { ByteSource, RandomAccessSource } from "./byte-stream.js";

/**
 * A file from some place to its end as a source. Reading is synchronous underneath, so that each read takes a turn of the
 * event loop: signals are heard in between.
 */
export class RangeSource implements ByteSource {
  readonly #source: RandomAccessSource;
  #position: number;
  #closed = false;

  constructor(source: RandomAccessSource, position: number) {
    this.#source = source;
    this.#position = position;
  }

  async read(target: Uint8Array): Promise<number> {
    await nextTurn();
    if (this.#closed) throw new CancelledError();
    const count = this.#source.readAt(target, this.#position);
    this.#position += count;
    return count;
  }

  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }
}
