import { createPageHasher, PAGE_HASH_BYTES, type PageHasher } from "../../kernels/index.js";
import type { PageBitmap, PageRun } from "../../memory/index.js";
import type { Breathe } from "../breathe.js";
import { eachPiece, type HostRamBlock } from "../ram-block.js";
import type { DirtyLog, DirtyLogCost } from "./dirty-log.js";
import { walkMemory } from "./memory-walk.js";

/** 32-bit words of a hash. */
const HASH_WORDS = PAGE_HASH_BYTES / 4;

/**
 * Finds changed pages by their hashes, for hosts that have no write barrier and no room for a copy of the guest: 16 bytes
 * a page.
 *
 * Each log has a random key of its own. A page that differs from what was handed out is missed with a probability of at
 * most 2^-127 for each comparison, whatever the guest writes (`kernels/page-hash-key.ts`): a guest of 1 TiB that is
 * compared a million times misses a page with at most 2^-79.
 *
 * As in {@link ShadowDirtyLog}, the hashes are those of what was handed out last. Each {@link sync} reads the memory once,
 * through a copy in small pieces, at some 8 GB/s.
 */
export class HashDirtyLog implements DirtyLog {
  readonly #blocks: () => readonly HostRamBlock[];
  readonly #pageSize: number;
  readonly #lengths: readonly number[];
  readonly #hasher: PageHasher;
  /** For each block the hashes of its pages. Those of pages that never were handed out are zero, and dirty. */
  #hashes: readonly Uint32Array[];
  #lastSyncMs: number | undefined;

  /**
   * @param blocks Gives the blocks with views that are valid now.
   * @param pageSize A multiple of 32.
   */
  constructor(blocks: () => readonly HostRamBlock[], pageSize: number) {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#hasher = createPageHasher(pageSize);
    this.#lengths = blocks().map(({ usedLength }) => usedLength);
    this.#hashes = this.#lengths.map((length) => new Uint32Array((length / pageSize) * HASH_WORDS));
  }

  get cost(): DirtyLogCost {
    const tableBytes = this.#hashes.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const memoryBytes = tableBytes + this.#hasher.staging.length + this.#hasher.hashes.byteLength;
    return { memoryBytes, lastSyncMs: this.#lastSyncMs };
  }

  async sync(dirty: readonly PageBitmap[], breathe: Breathe | undefined): Promise<void> {
    this.#lastSyncMs = await walkMemory(this.#lengths, breathe, (block, address, length) => {
      // Asked for in each slice: the guest may have moved its memory in the breath before.
      const live = this.#blocks()[block]?.segments ?? [];
      eachPiece(live, address, length, this.#hasher.staging.length, (bytes, start) => {
        this.#hasher.hash(bytes);
        this.#compare(block, start / this.#pageSize, bytes.length / this.#pageSize, dirty[block]);
      });
    });
  }

  take(block: number, run: PageRun, use: (bytes: Uint8Array, address: number) => void): void {
    const pageSize = this.#pageSize;
    const { staging, hashes } = this.#hasher;
    const live = this.#blocks()[block]?.segments ?? [];
    const length = (run.end - run.start) * pageSize;
    eachPiece(live, run.start * pageSize, length, staging.length, (bytes, address) => {
      this.#hasher.hash(bytes);
      const words = hashes.subarray(0, (bytes.length / pageSize) * HASH_WORDS);
      this.#hashes[block]?.set(words, (address / pageSize) * HASH_WORDS);
      // The copy that was hashed, not the memory: so the hash is that of what the reader got.
      use(staging.subarray(0, bytes.length), address);
    });
  }

  stop(): void {
    this.#hashes = [];
  }

  #compare(block: number, firstPage: number, count: number, dirty: PageBitmap | undefined): void {
    const { hashes: fresh } = this.#hasher;
    const old = this.#hashes[block];
    if (old === undefined || dirty === undefined) return;
    for (let page = 0; page < count; page++) {
      const now = page * HASH_WORDS;
      const then = (firstPage + page) * HASH_WORDS;
      const same =
        old[then] === fresh[now] &&
        old[then + 1] === fresh[now + 1] &&
        old[then + 2] === fresh[now + 2] &&
        old[then + 3] === fresh[now + 3];
      if (!same) dirty.set(firstPage + page);
    }
  }
}
