import { UsageError } from "../../../errors/index.js";
import { EnginePacketCompressor, EnginePacketDecompressor } from "./engine-packets.js";
import { createLibzstdCompressor, createLibzstdDecompressor } from "./libzstd-packets.js";
import type { PacketCompression, PacketCompressor, PacketDecompressor } from "./packet-compression.js";
import {
  createDeflateEngine,
  createInflateEngine,
  createZstdCompressEngine,
  createZstdDecompressEngine,
} from "./zlib-engines.js";

/** `multifd-zlib-level` and `multifd-zstd-level` when nothing is said, and the highest; the lowest is 0 for both. */
export const PACKET_COMPRESSION_LEVELS = {
  zlib: { default: 1, highest: 9 },
  zstd: { default: 1, highest: 20 },
} as const;

/**
 * Makes the compressor of one channel.
 *
 * @param level As QEMU's `multifd-zlib-level` (0 to 9) or `multifd-zstd-level` (0 to 20, where 0 is zstd's own default, 3).
 * @throws UsageError for a level that does not exist; MachineError `not-capable` for zstd where neither Node (from 22.15)
 *   nor the package koffi with the system's libzstd has it.
 */
export function createPacketCompressor(
  method: PacketCompression,
  level: number = PACKET_COMPRESSION_LEVELS[method].default,
): PacketCompressor {
  const { highest } = PACKET_COMPRESSION_LEVELS[method];
  if (!Number.isInteger(level) || level < 0 || level > highest) {
    throw new UsageError(`multifd-${method}-level must be a whole number from 0 to ${highest}`, {
      actual: level,
    });
  }
  if (method === "zlib") return new EnginePacketCompressor(createDeflateEngine(level));
  const engine = createZstdCompressEngine(level);
  return engine === undefined ? createLibzstdCompressor(level) : new EnginePacketCompressor(engine);
}

/**
 * Makes the decompressor of one channel.
 *
 * @throws MachineError `not-capable` as {@link createPacketCompressor}.
 */
export function createPacketDecompressor(method: PacketCompression): PacketDecompressor {
  if (method === "zlib") return new EnginePacketDecompressor(createInflateEngine(), method);
  const engine = createZstdDecompressEngine();
  return engine === undefined ? createLibzstdDecompressor() : new EnginePacketDecompressor(engine, method);
}
