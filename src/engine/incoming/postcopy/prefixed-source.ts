import type { ByteSource } from "../../../channels/index.js";

/** A source of which the first bytes were read already. */
export class PrefixedSource implements ByteSource {
  #prefix: Uint8Array;
  readonly #source: ByteSource;

  /** @param prefix Comes before what `source` gives; must stay as it is. */
  constructor(prefix: Uint8Array, source: ByteSource) {
    this.#prefix = prefix;
    this.#source = source;
  }

  read(target: Uint8Array): Promise<number> {
    if (this.#prefix.length === 0) return this.#source.read(target);
    const piece = this.#prefix.subarray(0, target.length);
    target.set(piece);
    this.#prefix = this.#prefix.subarray(piece.length);
    return Promise.resolve(piece.length);
  }

  close(): Promise<void> {
    return this.#source.close();
  }
}
