import { type DirtyLog, eachPiece, type MigrationHost } from "../host.js";
import { SLICE_BYTES } from "./slice.js";

/** Hands out pages: a dirty log, or the memory itself. */
export type PageSource = Pick<DirtyLog, "take">;

/** Pages of a guest that stands still, from its memory. */
export function memoryOf(host: MigrationHost): PageSource {
  const { pageSize } = host;
  return {
    take(block, { start, end }, use) {
      const segments = host.ramBlocks()[block]?.segments ?? [];
      eachPiece(segments, start * pageSize, (end - start) * pageSize, SLICE_BYTES, use);
    },
  };
}
