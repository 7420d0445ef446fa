import type { RandomAccessSource } from "../../channels/index.js";
import { FormatError } from "../../errors/index.js";
import { decodeStreamTail, Limits, type StreamTail } from "../../wire/index.js";
import { FileCursor } from "./file-cursor.js";
import type { MappedRamFile } from "./open.js";

/**
 * Reads and decodes what stands behind RAM: device sections, EOF and the description.
 *
 * @throws FormatError as decodeStreamTail does.
 */
export function readMappedRamTail(
  file: RandomAccessSource,
  skeleton: Pick<MappedRamFile, "ramEndOffset" | "footers">,
): { tail: StreamTail; bytes: Uint8Array } {
  const bytes = readTailBytes(file, skeleton.ramEndOffset);
  return { tail: decodeStreamTail(bytes, skeleton.ramEndOffset, skeleton), bytes };
}

/** Reads all bytes behind RAM, which is little: pages are in front of them. */
export function readTailBytes(file: RandomAccessSource, ramEndOffset: number): Uint8Array {
  const length = file.sizeBytes - ramEndOffset;
  if (length > Limits.tailBytes) {
    throw new FormatError("limit-exceeded", "The device state is absurdly long", {
      offset: ramEndOffset,
      expected: `at most ${Limits.tailBytes} bytes`,
      actual: length,
    });
  }
  return new FileCursor(file, ramEndOffset).read(ramEndOffset, length);
}
