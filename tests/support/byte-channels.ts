/**
 * Channels in memory.
 *
 * @module
 */

import type { ByteSink, ByteSource } from "../../src/channels/index.js";

/** Gives the bytes once, at most `pieceBytes` of them at a time, and then ends. */
export function sourceOf(bytes: Uint8Array, pieceBytes = Infinity): ByteSource {
  let position = 0;
  return {
    read: (target) => {
      const piece = bytes.subarray(position, position + Math.min(pieceBytes, target.length));
      target.set(piece);
      position += piece.length;
      return Promise.resolve(piece.length);
    },
    close: () => Promise.resolve(),
  };
}

/** Keeps what is written into it. */
export class Collector implements ByteSink {
  readonly pieces: Uint8Array[] = [];

  /** Everything so far. */
  get bytes(): Buffer {
    return Buffer.concat(this.pieces);
  }

  write(bytes: Uint8Array): Promise<void> {
    this.pieces.push(bytes.slice());
    return Promise.resolve();
  }

  end(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
