/**
 * A connection in memory that breaks when it is told to, with what is under way.
 *
 * @module
 */

import type { ByteChannel } from "../../src/channels/index.js";
import { MachineError } from "../../src/errors/index.js";

/** Two ends, and a way to break both. */
export interface BreakableLink {
  readonly near: ByteChannel;
  readonly far: ByteChannel;
  readonly break: () => void;
}

/** What every link that a test makes has in common. */
export interface LinkLimits {
  /** Bytes that a direction holds before its writer has to wait. */
  readonly capacity: number;
  /** Breaks when so many bytes have been written, in both directions together. */
  readonly breakAfterBytes?: number;
}

/** Makes a connection. */
export function breakableLink({ capacity, breakAfterBytes = Infinity }: LinkLimits): BreakableLink {
  let leftBytes = breakAfterBytes;
  const count = (bytes: number): void => {
    leftBytes -= bytes;
    if (leftBytes < 0) breakBoth();
  };
  const there = new Direction(capacity, count);
  const back = new Direction(capacity, count);
  const breakBoth = (): void => {
    there.break();
    back.break();
  };
  const end = (reads: Direction, writes: Direction): ByteChannel => ({
    read: (target) => reads.read(target),
    write: (bytes) => writes.write(bytes),
    end: () => Promise.resolve(),
    close: () => {
      breakBoth();
      return Promise.resolve();
    },
  });
  return { near: end(back, there), far: end(there, back), break: breakBoth };
}

class Direction {
  readonly #capacity: number;
  readonly #count: (bytes: number) => void;
  #pieces: Uint8Array[] = [];
  #bytes = 0;
  #isBroken = false;
  #wake: (() => void)[] = [];

  constructor(capacity: number, count: (bytes: number) => void) {
    this.#capacity = capacity;
    this.#count = count;
  }

  break(): void {
    this.#isBroken = true;
    this.#pieces = [];
    this.#bytes = 0;
    this.#changed();
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#count(bytes.length);
    this.#throwBroken();
    this.#pieces.push(bytes.slice());
    this.#bytes += bytes.length;
    this.#changed();
    while (this.#bytes > this.#capacity) await this.#change();
    this.#throwBroken();
  }

  async read(target: Uint8Array): Promise<number> {
    while (this.#bytes === 0) {
      this.#throwBroken();
      await this.#change();
    }
    // As from a socket: whoever reads has given everybody else a turn.
    await new Promise((resolve) => setImmediate(resolve));
    this.#throwBroken();
    const piece = this.#pieces.shift()!;
    const count = Math.min(piece.length, target.length);
    target.set(piece.subarray(0, count));
    if (count < piece.length) this.#pieces.unshift(piece.subarray(count));
    this.#bytes -= count;
    this.#changed();
    return count;
  }

  #throwBroken(): void {
    if (this.#isBroken) throw new MachineError("connection-closed", "The link broke");
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  #changed(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}
