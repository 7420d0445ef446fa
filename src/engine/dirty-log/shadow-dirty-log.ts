import type { PageBitmap, PageRun } from "../../memory/index.js";
import type { Breathe } from "../breathe.js";
import { eachPiece, type HostRamBlock } from "../ram-block.js";
import type { DirtyLog, DirtyLogCost } from "./dirty-log.js";
import { walkMemory } from "./memory-walk.js";

const SEGMENT_BYTES = 1 << 30;
/** Compared with one call; only where it differs, page by page. Larger is no faster once some pages are dirty. */
const STRETCH_BYTES = 64 << 10;

/**
 * Finds changed pages by comparing guest memory with a copy of it, for hosts that have no write barrier.
 *
 * The copy holds what was handed out last, not what was compared last: a page that changed, was handed out, and changed
 * back has to be found. It costs as much memory as the guest has, and each {@link sync} reads both once (some 10 to
 * 17 GB/s); between two syncs the guest runs at full speed. Decision 7 has the numbers, and the other ways.
 */
export class ShadowDirtyLog implements DirtyLog {
  readonly #blocks: () => readonly HostRamBlock[];
  readonly #pageSize: number;
  readonly #lengths: readonly number[];
  #shadow: readonly (readonly Uint8Array[])[];
  #lastSyncMs: number | undefined;

  /** @param blocks Gives the blocks with views that are valid now. */
  constructor(blocks: () => readonly HostRamBlock[], pageSize: number) {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#lengths = blocks().map(({ usedLength }) => usedLength);
    this.#shadow = this.#lengths.map(allocate);
  }

  get cost(): DirtyLogCost {
    const memoryBytes = this.#shadow.flat().reduce((sum, { length }) => sum + length, 0);
    return { memoryBytes, lastSyncMs: this.#lastSyncMs };
  }

  async sync(dirty: readonly PageBitmap[], breathe: Breathe | undefined): Promise<void> {
    this.#lastSyncMs = await walkMemory(this.#lengths, breathe, (block, address, length) => {
      eachPiece(this.#shadow[block] ?? [], address, length, SEGMENT_BYTES, (copy, start) =>
        this.#compare(block, start, copy, dirty[block]),
      );
    });
  }

  take(block: number, run: PageRun, use: (bytes: Uint8Array, address: number) => void): void {
    const pageSize = this.#pageSize;
    const start = run.start * pageSize;
    const length = (run.end - run.start) * pageSize;
    const live = this.#blocks()[block]?.segments ?? [];
    eachPiece(this.#shadow[block] ?? [], start, length, SEGMENT_BYTES, (copy, address) => {
      eachPiece(live, address, copy.length, SEGMENT_BYTES, (bytes, at) => copy.set(bytes, at - address));
      use(copy, address);
    });
  }

  stop(): void {
    this.#shadow = [];
  }

  #compare(block: number, address: number, copy: Uint8Array, dirty: PageBitmap | undefined): void {
    const pageSize = this.#pageSize;
    const stretchBytes = Math.max(STRETCH_BYTES, pageSize);
    const old = Buffer.from(copy.buffer, copy.byteOffset, copy.length);
    const live = this.#blocks()[block]?.segments ?? [];
    eachPiece(live, address, copy.length, SEGMENT_BYTES, (bytes, start) => {
      const base = start - address;
      for (let stretch = 0; stretch < bytes.length; stretch += stretchBytes) {
        const end = Math.min(stretch + stretchBytes, bytes.length);
        if (old.compare(bytes, stretch, end, base + stretch, base + end) === 0) continue;
        for (let at = stretch; at < end; at += pageSize) {
          const same = old.compare(bytes, at, at + pageSize, base + at, base + at + pageSize) === 0;
          if (!same) dirty?.set((start + at) / pageSize);
        }
      }
    });
  }
}

function allocate(length: number): Uint8Array[] {
  const segments: Uint8Array[] = [];
  for (let done = 0; done < length; done += SEGMENT_BYTES) {
    segments.push(new Uint8Array(Math.min(SEGMENT_BYTES, length - done)));
  }
  return segments;
}
