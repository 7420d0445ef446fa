import { assert } from "../errors/index.js";
import { startKernel, WASM_PAGE, type WasmMemory } from "./web-assembly.js";
import { XBZRLE_WASM } from "./xbzrle-wasm.js";

interface XbzrleExports {
  readonly memory: WasmMemory;
  update(old: number, fresh: number, length: number, out: number, limit: number): number;
  copy(to: number, from: number, length: number): void;
}

/** What the kernel may touch behind a page, and more. */
const SLACK_BYTES = 64;

/**
 * Pages by number, and the xbzrle delta of each new content against the last one, in WebAssembly SIMD. The deltas are
 * those of `encodeXbzrle` in src/wire/, which runs where this cannot.
 *
 * The pages are in the kernel's own memory: a page is copied there once, as it is into any cache. Pages that were never
 * written are zero and take no memory, as far as the system gives it on first use.
 */
export class XbzrleKernel {
  /** Where the caller puts the new content of a page. */
  readonly fresh: Uint8Array;
  /** The last delta, from its start on. */
  readonly delta: Uint8Array;
  readonly #kernel: XbzrleExports;
  readonly #pageSize: number;
  readonly #count: number;
  readonly #bytes: Uint8Array;
  readonly #pagesAt: number;

  private constructor(kernel: XbzrleExports, pageSize: number, count: number) {
    assert(pageSize > 0 && pageSize % 64 === 0, `pages of ${pageSize} bytes`);
    this.#kernel = kernel;
    this.#pageSize = pageSize;
    this.#count = count;
    const deltaAt = pageSize + SLACK_BYTES;
    this.#pagesAt = Math.ceil((deltaAt + pageSize + SLACK_BYTES) / pageSize) * pageSize;
    const { memory } = kernel;
    memory.grow(Math.ceil((this.#pagesAt + count * pageSize + SLACK_BYTES) / WASM_PAGE));
    this.#bytes = new Uint8Array(memory.buffer);
    this.fresh = this.#bytes.subarray(0, pageSize);
    this.delta = this.#bytes.subarray(deltaAt, deltaAt + pageSize);
  }

  /**
   * @param pageSize Bytes: a multiple of 64.
   * @param count Pages; all of them together less than 4 GiB.
   * @returns Undefined where the kernel cannot run.
   * @throws RangeError when there is not that much memory.
   */
  static start(pageSize: number, count: number): XbzrleKernel | undefined {
    const kernel = startKernel(XBZRLE_WASM) as XbzrleExports | undefined;
    return kernel && new XbzrleKernel(kernel, pageSize, count);
  }

  /**
   * Encodes {@link fresh} against a page, whose content it then is.
   *
   * @param limit Bytes that the delta may have, at most a page.
   * @returns Bytes of {@link delta}; 0 when nothing changed; -1 when it does not fit, or has a run of 16 KiB or more.
   */
  update(page: number, limit: number): number {
    assert(limit <= this.#pageSize, `a delta of ${limit} bytes`);
    return this.#kernel.update(this.#place(page), 0, this.#pageSize, this.delta.byteOffset, limit);
  }

  /** Makes {@link fresh} the content of a page. */
  store(page: number): void {
    this.#kernel.copy(this.#place(page), 0, this.#pageSize);
  }

  /** Makes a page zero. */
  clear(page: number): void {
    const at = this.#place(page);
    this.#bytes.fill(0, at, at + this.#pageSize);
  }

  #place(page: number): number {
    assert(page >= 0 && page < this.#count, `page ${page} of ${this.#count}`);
    return this.#pagesAt + page * this.#pageSize;
  }
}
