import { assert } from "../errors/index.js";
import { PAGE_HASH_BYTES, pageHashKeyWords } from "./page-hash-key.js";
import { PAGE_HASH_WASM } from "./page-hash-wasm.js";
import type { PageHasher } from "./page-hasher.js";
import { startKernel, WASM_PAGE, type WasmMemory } from "./web-assembly.js";

interface PageHashExports {
  readonly memory: WasmMemory;
  hashPages(at: number, end: number, page: number, key: number, out: number): void;
}

/** A cache line. */
const ALIGNMENT = 64;

/** The page hash in WebAssembly SIMD. Its memory holds the key, the staging, and the hashes, in this order. */
export class PageHashKernel implements PageHasher {
  readonly staging: Uint8Array;
  readonly hashes: Uint32Array;
  readonly #pageSize: number;
  readonly #kernel: PageHashExports;

  private constructor(kernel: PageHashExports, pageSize: number, key: Uint32Array, stagingBytes: number) {
    const keyWords = pageHashKeyWords(pageSize);
    const stagingAt = Math.ceil((keyWords * 4) / ALIGNMENT) * ALIGNMENT;
    const hashesAt = stagingAt + stagingBytes;
    const hashWords = (stagingBytes / pageSize) * (PAGE_HASH_BYTES / 4);
    this.#kernel = kernel;
    this.#pageSize = pageSize;
    const { memory } = kernel;
    memory.grow(Math.ceil((hashesAt + hashWords * 4) / WASM_PAGE));
    writeLittleEndian(memory.buffer, key.subarray(0, keyWords));
    this.staging = new Uint8Array(memory.buffer, stagingAt, stagingBytes);
    this.hashes = new Uint32Array(memory.buffer, hashesAt, hashWords);
  }

  /**
   * @param key {@link pageHashKeyWords} random words.
   * @param stagingBytes A multiple of the page size.
   * @returns Undefined where the kernel cannot run.
   */
  static start(pageSize: number, key: Uint32Array, stagingBytes: number): PageHashKernel | undefined {
    const kernel = startKernel(PAGE_HASH_WASM) as PageHashExports | undefined;
    return kernel && new PageHashKernel(kernel, pageSize, key, stagingBytes);
  }

  hash(pages: Uint8Array): void {
    // The kernel takes a first page for granted.
    if (pages.length === 0) return;
    assert(pages.length % this.#pageSize === 0, `${pages.length} bytes are no whole pages`);
    this.staging.set(pages);
    const { byteOffset } = this.staging;
    const hashesAt = this.hashes.byteOffset;
    this.#kernel.hashPages(byteOffset, byteOffset + pages.length, this.#pageSize, 0, hashesAt);
  }
}

/** WebAssembly reads little-endian everywhere. */
function writeLittleEndian(target: ArrayBuffer, words: Uint32Array): void {
  const view = new DataView(target);
  for (const [index, word] of words.entries()) view.setUint32(index * 4, word, true);
}
