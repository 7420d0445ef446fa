/**
 * A connection in memory that can be broken at any byte.
 *
 * @module
 */

import type { ByteChannel } from "../../src/channels/index.js";
import { MachineError } from "../../src/errors/index.js";

const BROKEN = "the pipe was broken";

/** One direction: what is written comes out in pieces. */
class Way {
  readonly #pieces: Uint8Array[] = [];
  readonly #most: () => number;
  #wake: (() => void) | undefined;
  #state: "open" | "ended" | "broken" = "open";

  constructor(mostBytes: () => number) {
    this.#most = mostBytes;
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#state !== "open") return Promise.reject(new MachineError("connection-closed", BROKEN));
    if (bytes.length > 0) this.#pieces.push(bytes.slice());
    this.#wake?.();
    return Promise.resolve();
  }

  async read(target: Uint8Array): Promise<number> {
    while (this.#pieces.length === 0 && this.#state === "open") {
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const piece = this.#pieces.shift();
    if (piece === undefined) {
      if (this.#state === "ended") return 0;
      throw new MachineError("connection-closed", BROKEN);
    }
    const count = Math.min(piece.length, target.length, this.#most());
    target.set(piece.subarray(0, count));
    if (count < piece.length) this.#pieces.unshift(piece.subarray(count));
    return count;
  }

  stop(state: "ended" | "broken"): void {
    if (this.#state === "open") this.#state = state;
    this.#wake?.();
  }
}

/** Both ends of a connection. */
export interface BytePipe {
  readonly near: ByteChannel;
  readonly far: ByteChannel;
  /** What is under way still comes out; then both ends fail. */
  breakOff(): void;
}

/**
 * @param pieceBytes How much comes out at a time, at most; asked each time.
 * @param budgetBytes So many bytes can be written at the near end, and then it breaks.
 */
export function bytePipe(pieceBytes: () => number, budgetBytes = Infinity): BytePipe {
  const there = new Way(pieceBytes);
  const back = new Way(pieceBytes);
  const breakOff = (): void => {
    there.stop("broken");
    back.stop("broken");
  };
  let budget = budgetBytes;
  const end = (from: Way, to: Way, spend: (count: number) => number): ByteChannel => ({
    read: (target) => from.read(target),
    write: async (bytes) => {
      const allowed = spend(bytes.length);
      await to.write(bytes.subarray(0, allowed));
      if (allowed === bytes.length) return;
      breakOff();
      throw new MachineError("connection-closed", BROKEN);
    },
    end: () => {
      to.stop("ended");
      return Promise.resolve();
    },
    close: () => {
      breakOff();
      return Promise.resolve();
    },
  });
  return {
    near: end(back, there, (count) => {
      const allowed = Math.min(count, budget);
      budget -= allowed;
      return allowed;
    }),
    far: end(there, back, (count) => count),
    breakOff,
  };
}
