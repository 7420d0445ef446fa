import type { MultifdSendOptions, MultifdSyncMode, PacketCompression } from "../engine/index.js";
import { UsageError } from "../errors/index.js";

/** How pages are compressed on their way. */
export interface MultifdCompressionOptions {
  /** As QEMU's `multifd-compression`: the destination's must be the same. Needs `channels`; default none. */
  readonly multifdCompression?: "none" | PacketCompression;
  /** As QEMU's `multifd-zlib-level`: 0 to 9, default 1. */
  readonly multifdZlibLevel?: number;
  /** As QEMU's `multifd-zstd-level`: 0 to 20, default 1. */
  readonly multifdZstdLevel?: number;
}

/** Most channels that QEMU's `multifd-channels` allows. */
export const MOST_CHANNELS = 255;

/**
 * Checks what was asked for.
 *
 * @throws UsageError for a number of channels that QEMU cannot have, and for compression without channels.
 */
export function checkMultifdOptions(
  options: MultifdCompressionOptions & { readonly channels?: number; readonly multifdSync?: MultifdSyncMode },
): void {
  const { channels, multifdCompression = "none", multifdZlibLevel, multifdZstdLevel, multifdSync } = options;
  if (channels !== undefined && !(Number.isInteger(channels) && channels >= 1 && channels <= MOST_CHANNELS)) {
    throw new UsageError(`There can be 1 to ${MOST_CHANNELS} channels`, { actual: channels });
  }
  if (channels === undefined && (multifdCompression !== "none" || multifdSync !== undefined)) {
    throw new UsageError("Only pages that travel over channels of their own are compressed and synced", {
      hint: "say how many with --channels",
    });
  }
  const levels = { zlib: multifdZlibLevel, zstd: multifdZstdLevel };
  for (const [method, level] of Object.entries(levels)) {
    if (level !== undefined && method !== multifdCompression) {
      throw new UsageError(`A level for ${method} is of no use without it`, {
        hint: `add --multifd-compression ${method}`,
      });
    }
  }
}

/** The same for the engine. */
export function packetCompressionOf(
  options: MultifdCompressionOptions,
): Pick<MultifdSendOptions, "compression" | "compressionLevel"> {
  const { multifdCompression: compression = "none", multifdZlibLevel, multifdZstdLevel } = options;
  if (compression === "none") return {};
  const compressionLevel = compression === "zlib" ? multifdZlibLevel : multifdZstdLevel;
  return compressionLevel === undefined ? { compression } : { compression, compressionLevel };
}
