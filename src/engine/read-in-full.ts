import type { RandomAccessSource } from "../channels/index.js";
import { FormatError, type RamportErrorData } from "../errors/index.js";

/**
 * Fills `target` with the bytes at `position`.
 *
 * @param message What to say when the file ends before that.
 * @param place Of what the bytes are a part.
 * @throws FormatError `truncated`, with the offset at which the file ends; MachineError `io`.
 */
export function readInFull(
  file: Pick<RandomAccessSource, "readAt">,
  target: Uint8Array,
  position: number,
  message: string,
  place: Pick<RamportErrorData, "section" | "block">,
): void {
  const count = file.readAt(target, position);
  if (count === target.length) return;
  throw new FormatError("truncated", message, { offset: position + count, ...place });
}
