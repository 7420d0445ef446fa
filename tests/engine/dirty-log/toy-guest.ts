import type { DirtyLog } from "../../../src/engine/dirty-log/dirty-log.js";
import { HashDirtyLog } from "../../../src/engine/dirty-log/hash-dirty-log.js";
import { MarkedDirtyLog } from "../../../src/engine/dirty-log/marked-dirty-log.js";
import { ShadowDirtyLog } from "../../../src/engine/dirty-log/shadow-dirty-log.js";
import type { HostRamBlock } from "../../../src/engine/ram-block.js";

export const PAGE = 64;

/** Segments of each block, in pages. */
const LAYOUT = [[16, 16, 8], [5]];
export const PAGE_COUNTS = LAYOUT.map((segments) => segments.reduce((sum, pages) => sum + pages, 0));

/** The dirty logs: what they are called, and how one is made. */
export const LOGS: readonly (readonly [string, (guest: ToyGuest) => DirtyLog])[] = [
  ["ShadowDirtyLog", (guest) => new ShadowDirtyLog(() => guest.blocks, PAGE)],
  ["HashDirtyLog", (guest) => new HashDirtyLog(() => guest.blocks, PAGE)],
  ["MarkedDirtyLog", (guest) => guest.marking(new MarkedDirtyLog(() => guest.blocks, PAGE))],
];

/** Memory of a few small pages, and writes that are marked where there is a log for marks. */
export class ToyGuest {
  blocks: readonly HostRamBlock[] = LAYOUT.map((segments, index) => ({
    name: `block${index}`,
    usedLength: PAGE_COUNTS[index]! * PAGE,
    segments: segments.map((pages) => new Uint8Array(pages * PAGE)),
  }));
  #log: MarkedDirtyLog | undefined;

  marking(log: MarkedDirtyLog): MarkedDirtyLog {
    this.#log = log;
    return log;
  }

  /** Writes the same byte `length` times; what is beyond the block is left out. */
  write(block: number, at: number, length: number, value: number): void {
    const count = Math.min(length, this.blocks[block]!.usedLength - at);
    let start = 0;
    for (const segment of this.blocks[block]!.segments) {
      segment.fill(value, Math.max(0, at - start), Math.max(0, at + count - start));
      start += segment.length;
    }
    this.#log?.mark(block, at, count);
  }

  /** Puts memory elsewhere, as a WebAssembly memory does that grows: the old views are no good any more. */
  move(): void {
    this.blocks = this.blocks.map((block) => ({
      ...block,
      segments: block.segments.map((segment) => {
        const moved = segment.slice();
        structuredClone(segment.buffer, { transfer: [segment.buffer as ArrayBuffer] });
        return moved;
      }),
    }));
  }

  page(block: number, page: number): Buffer {
    return Buffer.concat(this.blocks[block]!.segments).subarray(page * PAGE, (page + 1) * PAGE);
  }
}
