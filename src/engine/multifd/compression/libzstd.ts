import process from "node:process";

import { loadKoffi } from "../../../channels/system-calls.js";
import { MachineError } from "../../../errors/index.js";
import { ZSTD, ZSTD_WINDOW_LOG_MAX } from "./zlib-engines.js";

/** A pointer, as koffi hands it out. */
type Pointer = bigint;

/** A `size_t` from zstd: a count, or what `ZSTD_isError` knows as an error. */
type ZstdResult = number | bigint;

type AsyncCall<Arguments extends unknown[]> = ((...args: Arguments) => ZstdResult) & {
  async(...args: [...Arguments, (error: Error | null, result: ZstdResult) => void]): void;
};

/** The functions of zstd.h that are used; all are part of its stable ABI. */
interface LibzstdCalls {
  readonly createCCtx: () => Pointer | null;
  readonly freeCCtx: (context: Pointer) => ZstdResult;
  readonly setCParameter: (context: Pointer, parameter: number, value: number) => ZstdResult;
  readonly compressStream2: AsyncCall<[Pointer, BigUint64Array, BigUint64Array, number]>;
  readonly createDCtx: () => Pointer | null;
  readonly freeDCtx: (context: Pointer) => ZstdResult;
  readonly setDParameter: (context: Pointer, parameter: number, value: number) => ZstdResult;
  readonly decompressStream: AsyncCall<[Pointer, BigUint64Array, BigUint64Array]>;
  readonly isError: (result: ZstdResult) => number;
  readonly getErrorName: (result: ZstdResult) => string;
  readonly getErrorCode: (result: ZstdResult) => number;
}

/** The first version in which `ZSTD_compressStream2` is stable: 1.4.0. */
const OLDEST_VERSION = 10_400;

const LIBRARY = process.platform === "darwin" ? "libzstd.1.dylib" : "libzstd.so.1";

const HINT = "use Node 22.15 or newer, or install the optional package koffi and the system's libzstd";

/** What a call of {@link ZstdContext} did. */
export interface ZstdStep {
  /** Bytes of input taken. */
  readonly taken: number;
  /** Bytes of output made. */
  readonly made: number;
  /** What zstd returned: 0 when all is flushed (compressing) or when the frame ended (unpacking). */
  readonly result: ZstdResult;
}

/** zstd refused to go on. */
export class LibzstdError extends Error {
  override readonly name = "LibzstdError";
  /** One of zstd_errors.h. */
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** A compression or decompression context of the system's libzstd. Its calls work in Node's thread pool. */
export class ZstdContext {
  readonly #calls: LibzstdCalls;
  readonly #addressOf: (bytes: Uint8Array) => Pointer;
  readonly #direction: "compress" | "decompress";
  readonly #context: Pointer;
  /** `ZSTD_outBuffer` and `ZSTD_inBuffer`: address, size, position. Memory of their own, that no collection moves. */
  readonly #output = new BigUint64Array(new ArrayBuffer(24));
  readonly #input = new BigUint64Array(new ArrayBuffer(24));
  /** What a call in the thread pool works on: a reference keeps it from being collected. */
  #held: readonly Uint8Array[] | undefined;
  #closed = false;

  private constructor(library: Libzstd, direction: "compress" | "decompress", context: Pointer) {
    this.#calls = library.calls;
    this.#addressOf = library.addressOf;
    this.#direction = direction;
    this.#context = context;
  }

  /** @throws MachineError `not-capable` where there is no libzstd. */
  static forCompression(level: number): ZstdContext {
    const library = loadLibzstd();
    const context = new ZstdContext(library, "compress", allocated(library.calls.createCCtx()));
    context.#check(library.calls.setCParameter(context.#context, ZSTD.compressionLevel, level));
    return context;
  }

  /** @throws MachineError `not-capable` where there is no libzstd. */
  static forDecompression(): ZstdContext {
    const library = loadLibzstd();
    const context = new ZstdContext(library, "decompress", allocated(library.calls.createDCtx()));
    context.#check(library.calls.setDParameter(context.#context, ZSTD.windowLogMax, ZSTD_WINDOW_LOG_MAX));
    return context;
  }

  /**
   * Has the context take what it can of `input` and make what fits into `output`; when compressing, all of it flushed.
   *
   * @throws LibzstdError
   */
  async step(input: Uint8Array, output: Uint8Array): Promise<ZstdStep> {
    this.#point(input, output);
    this.#held = [input, output];
    try {
      const result = await new Promise<ZstdResult>((resolve, reject) => {
        const done = (error: Error | null, value: ZstdResult) => {
          if (error) reject(error);
          else resolve(value);
        };
        const [context, to, from] = [this.#context, this.#output, this.#input];
        if (this.#direction === "decompress") this.#calls.decompressStream.async(context, to, from, done);
        else this.#calls.compressStream2.async(context, to, from, ZSTD.flush, done);
      });
      return this.#outcome(result);
    } finally {
      this.#held = undefined;
      if (this.#closed) this.#free();
    }
  }

  /** Whether a decompression context has output left that its input gave already. */
  hasOutputLeft(): boolean {
    const probe = new Uint8Array(new ArrayBuffer(1));
    this.#point(probe.subarray(1), probe);
    return this.#outcome(this.#calls.decompressStream(this.#context, this.#output, this.#input)).made > 0;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Frees the context, at the end of a step that runs. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#held === undefined) this.#free();
  }

  #free(): void {
    if (this.#direction === "compress") this.#calls.freeCCtx(this.#context);
    else this.#calls.freeDCtx(this.#context);
  }

  #point(input: Uint8Array, output: Uint8Array): void {
    this.#output.set([this.#addressOf(output), BigInt(output.length), 0n]);
    this.#input.set([this.#addressOf(input), BigInt(input.length), 0n]);
  }

  #outcome(result: ZstdResult): ZstdStep {
    this.#check(result);
    return { taken: Number(this.#input[2]), made: Number(this.#output[2]), result };
  }

  #check(result: ZstdResult): void {
    if (this.#calls.isError(result) === 0) return;
    throw new LibzstdError(this.#calls.getErrorCode(result), this.#calls.getErrorName(result));
  }
}

interface Libzstd {
  readonly calls: LibzstdCalls;
  readonly addressOf: (bytes: Uint8Array) => Pointer;
}

let loaded: Libzstd | undefined;

function loadLibzstd(): Libzstd {
  loaded ??= openLibzstd();
  return loaded;
}

function openLibzstd(): Libzstd {
  const message = "multifd with zstd compression is not possible with this Node";
  try {
    const koffi = loadKoffi();
    if (koffi.sizeof("size_t") !== 8) throw new Error("only 64-bit machines are provided for");
    // The library must find its own functions first: a Node with another zstd built in lends them to all that is loaded,
    // and the two do not mix.
    const library = koffi.load(LIBRARY, { deep: true });
    const call = (declaration: string) => library.func(declaration) as unknown;
    const version = (call("uint32_t ZSTD_versionNumber()") as () => number)();
    if (version < OLDEST_VERSION) throw new Error(`libzstd ${version} is too old`);
    return { calls: declareCalls(call), addressOf: (bytes) => koffi.address(bytes) };
  } catch (cause) {
    throw new MachineError("not-capable", message, { hint: HINT }, cause);
  }
}

function declareCalls(call: (declaration: string) => unknown): LibzstdCalls {
  return {
    createCCtx: call("void *ZSTD_createCCtx()"),
    freeCCtx: call("size_t ZSTD_freeCCtx(void *context)"),
    setCParameter: call("size_t ZSTD_CCtx_setParameter(void *context, int parameter, int value)"),
    compressStream2: call("size_t ZSTD_compressStream2(void *context, void *output, void *input, int end)"),
    createDCtx: call("void *ZSTD_createDCtx()"),
    freeDCtx: call("size_t ZSTD_freeDCtx(void *context)"),
    setDParameter: call("size_t ZSTD_DCtx_setParameter(void *context, int parameter, int value)"),
    decompressStream: call("size_t ZSTD_decompressStream(void *context, void *output, void *input)"),
    isError: call("uint32_t ZSTD_isError(size_t result)"),
    getErrorName: call("const char *ZSTD_getErrorName(size_t result)"),
    getErrorCode: call("int ZSTD_getErrorCode(size_t result)"),
  } as LibzstdCalls;
}

function allocated(context: Pointer | null): Pointer {
  if (context === null) throw new MachineError("io", "There is no memory for a zstd stream");
  return context;
}
