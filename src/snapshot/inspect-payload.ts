import type { RandomAccessSource } from "../channels/index.js";
import type { PassedSection } from "../engine/index.js";
import { readInFull } from "../engine/read-in-full.js";
import { FormatError, UsageError } from "../errors/index.js";
import { Limits } from "../wire/index.js";
import type { SnapshotSection } from "./snapshot.js";

/** What payloads are read from: the file, or what was kept of a stream that is not in its file as it is. */
export type PayloadSource = Pick<RandomAccessSource, "readAt">;

/**
 * Reads a device section's payload; of an iterative one, the first part's.
 *
 * @throws UsageError for RAM; FormatError when the bytes are not all there; MachineError `io`.
 */
export function readPayload(source: PayloadSource, section: SnapshotSection): Uint8Array {
  const { name, payloadOffset, payloadLength } = section;
  if (payloadOffset === undefined || payloadLength === undefined) {
    throw new UsageError("Only a device's section has a payload that can be read at once", { section: name });
  }
  if (payloadLength > Limits.tailBytes) {
    throw new FormatError("limit-exceeded", "A device section is absurdly long", {
      offset: payloadOffset,
      section: name,
      expected: `at most ${Limits.tailBytes} bytes`,
      actual: payloadLength,
    });
  }
  const payload = new Uint8Array(payloadLength);
  readInFull(source, payload, payloadOffset, "The file ends inside a device's section", { section: name });
  return payload;
}

/** Reads from pieces of a stream that were kept; what lies in none of them is not there. */
export class KeptPieces implements PayloadSource {
  readonly #pieces: readonly PassedSection[];

  constructor(pieces: readonly PassedSection[]) {
    this.#pieces = pieces;
  }

  readAt(target: Uint8Array, position: number): number {
    const piece = this.#pieces.find(
      ({ bytes, offset }) => position >= offset && position < offset + bytes.length,
    );
    if (piece === undefined) return 0;
    const part = piece.bytes.subarray(position - piece.offset, position - piece.offset + target.length);
    target.set(part);
    return part.length;
  }
}
