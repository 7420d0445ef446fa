/** Bytes of a page of WebAssembly's memories: they grow by whole ones. */
export const WASM_PAGE = 65536;

/** A memory of WebAssembly, as far as it is used. */
export interface WasmMemory {
  readonly buffer: ArrayBuffer;
  /** @param pages How many pages of 64 KiB are added. */
  grow(pages: number): number;
}

/** The global `WebAssembly`, as far as it is used: its types come with a browser's library, not with Node's. */
interface WasmGlobal {
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
  readonly CompileError: new () => Error;
}

const wasm = (globalThis as { readonly WebAssembly?: WasmGlobal }).WebAssembly;

/**
 * Compiles and starts a kernel that imports nothing. Kernels are a few hundred bytes: there is no need to wait for it.
 *
 * @returns Its exports; undefined where there is no WebAssembly, where it is forbidden, or where it has no SIMD.
 */
export function startKernel(bytes: Uint8Array<ArrayBuffer>): unknown {
  if (wasm === undefined) return undefined;
  try {
    return new wasm.Instance(new wasm.Module(bytes)).exports;
  } catch (error) {
    if (error instanceof wasm.CompileError) return undefined;
    throw error;
  }
}

/** WebAssembly is little-endian everywhere; typed arrays are as the machine is. */
export const hostIsLittleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
