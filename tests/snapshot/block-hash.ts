/**
 * The hash of a block as a snapshot gives it, to compare with the guest's.
 *
 * @module
 */

import { createHash } from "node:crypto";

import type { Snapshot, SnapshotBlock } from "../../src/snapshot/index.js";

/** The SHA-256 of a block's content, all of it read through `readPages`. */
export function sha256Of(snapshot: Snapshot, block: SnapshotBlock): string {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(256 * block.pageSize);
  for (let page = 0; page < block.pageCount; page += 256) {
    // Not zeros before: those of pages without content are for readPages to fill in.
    const part = buffer.subarray(0, Math.min(256, block.pageCount - page) * block.pageSize).fill(0xee);
    snapshot.readPages(block, page, part);
    hash.update(part);
  }
  return hash.digest("hex");
}
