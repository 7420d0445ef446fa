import { type DirtyLog, eachPiece, type MigrationHost } from "../host.js";
import { SLICE_BYTES } from "./slice.js";

/** Hands out pages: a dirty log, or the memory itself. */
export type PageSource = Pick<DirtyLog, "take">;

/**
 * Pages of a guest that stands still, from its memory.
 *
 * @param pieceBytes Handed out at once: a multiple of the page size.
 */
export function memoryOf(host: MigrationHost, pieceBytes = SLICE_BYTES): PageSource {
  const { pageSize } = host;
  return {
    take(block, { start, end }, use) {
      const segments = host.ramBlocks()[block]?.segments ?? [];
      eachPiece(segments, start * pageSize, (end - start) * pageSize, pieceBytes, use);
    },
  };
}
