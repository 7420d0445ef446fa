import { assert, MachineError } from "../errors/index.js";

/** Bytes of one slot: what is copied before it is written, or after it was read, in one call. */
export const SLOT_BYTES = 1 << 20;

/** Slots that are made at once: each WebAssembly memory reserves address space of several GiB, whatever its size. */
const SLOTS_AT_ONCE = 8;
const WASM_PAGE_BYTES = 64 << 10;

/** The global `WebAssembly`, as far as it is used: its types come with a browser's library, not with Node's. */
interface WasmGlobal {
  readonly Memory: new (limits: { readonly initial: number }) => { readonly buffer: ArrayBuffer };
}

/**
 * Pieces of memory that begin at a page border, to be reused: what O_DIRECT takes. Only the memory of WebAssembly is
 * aligned so in Node; other buffers begin 16 bytes behind a border, or anywhere.
 */
export class AlignedSlots {
  readonly #free: Uint8Array<ArrayBuffer>[] = [];

  /**
   * Hands out a slot of {@link SLOT_BYTES}, with anything in it; new memory is made when none is free.
   *
   * @throws MachineError `not-capable` where there is no WebAssembly.
   */
  take(): Uint8Array<ArrayBuffer> {
    if (this.#free.length === 0) {
      const buffer = alignedBuffer(SLOTS_AT_ONCE * SLOT_BYTES);
      for (let index = SLOTS_AT_ONCE - 1; index >= 0; index--) {
        this.#free.push(new Uint8Array(buffer, index * SLOT_BYTES, SLOT_BYTES));
      }
    }
    const slot = this.#free.pop();
    assert(slot !== undefined, "a slot was just made");
    return slot;
  }

  /** Takes a slot back, which nothing may use any more. */
  release(slot: Uint8Array<ArrayBuffer>): void {
    this.#free.push(slot);
  }
}

function alignedBuffer(lengthBytes: number): ArrayBuffer {
  const wasm = (globalThis as { readonly WebAssembly?: WasmGlobal }).WebAssembly;
  try {
    if (wasm === undefined) throw new RangeError("no WebAssembly");
    return new wasm.Memory({ initial: lengthBytes / WASM_PAGE_BYTES }).buffer;
  } catch (cause) {
    throw new MachineError(
      "not-capable",
      "Direct I/O needs memory of WebAssembly, and there is none to be had",
      { hint: "leave direct I/O off, or lift the limit on address space (ulimit -v)" },
      cause,
    );
  }
}
