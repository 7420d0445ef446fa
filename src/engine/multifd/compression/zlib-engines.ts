import type { Transform } from "node:stream";
import zlib from "node:zlib";

/** What `node:zlib` makes, of any method. */
export type ZlibEngine = Transform & {
  /** Bytes of input that were taken so far. */
  readonly bytesWritten: number;
};

/** What Node has from 22.15 on, and its types for Node 20 do not. */
interface NodeZstd {
  createZstdCompress(options: ZstdOptions): ZlibEngine;
  createZstdDecompress(options: ZstdOptions): ZlibEngine;
}

interface ZstdOptions {
  readonly flush?: number;
  readonly chunkSize: number;
  readonly params: Readonly<Record<number, number>>;
}

/**
 * How much an engine unpacks or packs at a time. Larger pieces mean fewer turns of the event loop, but an allocation that
 * the system zeroes: zstd unpacks 940 MB/s with 256 KiB, 810 with 64 KiB, 370 with 1 MiB.
 */
const CHUNK_BYTES = 256 << 10;

/** From zstd.h: `ZSTD_e_flush`, `ZSTD_c_compressionLevel` and `ZSTD_d_windowLogMax`; fixed parts of its ABI. */
export const ZSTD = { flush: 1, compressionLevel: 100, windowLogMax: 100 } as const;

/**
 * The largest window that zstd's level 20, QEMU's highest, makes is 32 MiB. What asks for more is refused: the window is
 * memory that the sender makes us take.
 */
export const ZSTD_WINDOW_LOG_MAX = 25;

// The option `flush` gives each write that flush: one trip through the thread pool for a packet instead of two.

/** zlib, each write flushed. */
export function createDeflateEngine(level: number): ZlibEngine {
  return zlib.createDeflate({ level, flush: zlib.constants.Z_SYNC_FLUSH, chunkSize: CHUNK_BYTES });
}

/** The other end of {@link createDeflateEngine}. */
export function createInflateEngine(): ZlibEngine {
  return zlib.createInflate({ chunkSize: CHUNK_BYTES });
}

/** zstd, each write flushed; undefined where Node has none. */
export function createZstdCompressEngine(level: number): ZlibEngine | undefined {
  const params = { [ZSTD.compressionLevel]: level };
  return nodeZstd()?.createZstdCompress({ flush: ZSTD.flush, chunkSize: CHUNK_BYTES, params });
}

/** The other end of {@link createZstdCompressEngine}; undefined where Node has none. */
export function createZstdDecompressEngine(): ZlibEngine | undefined {
  const params = { [ZSTD.windowLogMax]: ZSTD_WINDOW_LOG_MAX };
  return nodeZstd()?.createZstdDecompress({ chunkSize: CHUNK_BYTES, params });
}

function nodeZstd(): NodeZstd | undefined {
  return "createZstdCompress" in zlib ? (zlib as unknown as NodeZstd) : undefined;
}
