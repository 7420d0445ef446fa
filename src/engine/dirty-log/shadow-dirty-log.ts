import type { PageBitmap, PageRun } from "../../memory/index.js";
import type { Breathe } from "../breathe.js";
import { eachPiece, type HostRamBlock } from "../ram-block.js";
import type { DirtyLog } from "./dirty-log.js";

/** A slice of comparing: about a millisecond of work. */
const COMPARE_SLICE_BYTES = 4 << 20;
const SEGMENT_BYTES = 1 << 30;

/**
 * Finds changed pages by comparing guest memory with a copy of it, for hosts that have no write barrier.
 *
 * The copy holds what was handed out last, not what was compared last: a page that changed, was handed out, and changed
 * back has to be found. It costs as much memory as the guest has, and each {@link sync} reads both once (some 10 GB/s;
 * 64 MiB in about 10 ms); between two syncs the guest runs at full speed.
 */
export class ShadowDirtyLog implements DirtyLog {
  readonly #blocks: () => readonly HostRamBlock[];
  readonly #pageSize: number;
  #shadow: readonly (readonly Uint8Array[])[];

  /** @param blocks Gives the blocks with views that are valid now. */
  constructor(blocks: () => readonly HostRamBlock[], pageSize: number) {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#shadow = blocks().map(({ usedLength }) => allocate(usedLength));
  }

  async sync(dirty: readonly PageBitmap[], breathe: Breathe | undefined): Promise<void> {
    for (const [index, shadow] of this.#shadow.entries()) {
      let address = 0;
      for (const copy of shadow) {
        for (let at = 0; at < copy.length; at += COMPARE_SLICE_BYTES) {
          const slice = copy.subarray(at, at + COMPARE_SLICE_BYTES);
          this.#compare(index, address + at, slice, dirty[index]);
          await breathe?.();
        }
        address += copy.length;
      }
    }
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
    const old = Buffer.from(copy.buffer, copy.byteOffset, copy.length);
    const live = this.#blocks()[block]?.segments ?? [];
    eachPiece(live, address, copy.length, SEGMENT_BYTES, (bytes, start) => {
      const base = start - address;
      for (let at = 0; at < bytes.length; at += pageSize) {
        const same = old.compare(bytes, at, at + pageSize, base + at, base + at + pageSize) === 0;
        if (!same) dirty?.set((start + at) / pageSize);
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
