/** Buffers of one length that are used again and again; how many there are bounds the memory that a transfer takes. */
export class Slots {
  readonly #slotBytes: number;
  readonly #free: Uint8Array[] = [];
  #notMade: number;

  constructor(count: number, slotBytes: number) {
    this.#slotBytes = slotBytes;
    this.#notMade = count;
  }

  /** Undefined when all are in use. */
  take(): Uint8Array | undefined {
    const slot = this.#free.pop();
    if (slot !== undefined) return slot;
    if (this.#notMade === 0) return undefined;
    this.#notMade -= 1;
    return new Uint8Array(this.#slotBytes);
  }

  give(slot: Uint8Array): void {
    this.#free.push(slot);
  }
}
