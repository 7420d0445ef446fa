import { assert, UsageError } from "../../errors/index.js";
import type { XbzrleCacheStats } from "../../qapi/index.js";
import { createXbzrlePages, type XbzrlePages } from "./xbzrle-pages.js";

/** What became of a page in {@link XbzrleCache.encode}. */
export type XbzrleResult =
  /** The record is `length` bytes of {@link XbzrleCache.encoded}. */
  | { readonly kind: "hit"; readonly length: number }
  /** `miss`, `overflow`: the page goes whole. `same`: the receiver has it already, and nothing goes. */
  | { readonly kind: "miss" | "overflow" | "same" };

/** Rounds that a page stays safe from another one of its slot (QEMU's CACHED_PAGE_LIFETIME). */
const LIFETIME_ROUNDS = 2;
/** The encoding byte and the length in front of a delta: QEMU counts them as bytes of the delta. */
const RECORD_BYTES = 3;
const SEGMENT_BYTES = 1 << 30;
/** Pages of a block are numbered from `block * BLOCK_STRIDE` on; numbers stay below 2^53. */
const BLOCK_STRIDE = 2 ** 40;
/** An odd number that spreads the blocks over the slots: Knuth's multiplicative hash. */
const BLOCK_SPREAD = 0x9e3779b1;
const NO_PAGE = -1;

const MISS: XbzrleResult = { kind: "miss" };
const OVERFLOW: XbzrleResult = { kind: "overflow" };
const SAME: XbzrleResult = { kind: "same" };

/**
 * What the receiver has of the pages that change often, so that only their changes need to travel: QEMU's page cache
 * (`migration/page_cache.c`), and `save_xbzrle_page`.
 *
 * **The cache holds exactly what the receiver has.** Once {@link encode} was called first, every page that is sent has
 * to go through it, or through {@link storeZero}. Before that, in the first round, the cache is empty, and pages need not
 * be told.
 *
 * Each page has one slot. The page in it stays for two rounds after its last use; another page that wants the slot is not
 * cached meanwhile.
 */
export class XbzrleCache {
  readonly #pageSize: number;
  #slots: Slots;
  #encoded: Uint8Array = new Uint8Array();
  #started = false;
  #round = 0;
  readonly #hit = { kind: "hit" as const, length: 0 };
  readonly #total = { handled: 0, bytes: 0, pages: 0, misses: 0, overflow: 0 };
  /** The same, when the round began. */
  #roundStart = { ...this.#total };
  #missRate = 0;
  #encodingRate = 0;

  /**
   * @param cacheBytes `xbzrle-cache-size`: a power of two, at least a page.
   * @throws UsageError when it is not, or when there is not that much memory.
   */
  constructor(cacheBytes: number, pageSize: number) {
    this.#pageSize = pageSize;
    this.#slots = new Slots(cacheBytes, pageSize);
  }

  /** The delta of the last hit, from its start on. */
  get encoded(): Uint8Array {
    return this.#encoded;
  }

  /**
   * Counters of `query-migrate`. Rates are those of the last whole round. The name of a block, which QEMU's `bytes` has
   * for the first record of each, is not counted.
   */
  get stats(): XbzrleCacheStats {
    return {
      "cache-size": this.#slots.cacheBytes,
      bytes: this.#total.bytes,
      pages: this.#total.pages,
      "cache-miss": this.#total.misses,
      "cache-miss-rate": this.#missRate,
      "encoding-rate": this.#encodingRate,
      overflow: this.#total.overflow,
    };
  }

  /**
   * Encodes the page at `bytes[at]` against what the receiver has of it. After it the receiver is taken to have this
   * content: what the result says has to be sent.
   *
   * @param round Counts up with each search for changed pages (`dirty-sync-count`).
   * @returns An object that the next call may change.
   */
  encode(block: number, address: number, bytes: Uint8Array, at: number, round: number): XbzrleResult {
    this.#started = true;
    this.#beginRound(round);
    this.#total.handled += 1;
    const page = this.#number(block, address);
    const slot = this.#slots.slotOf(block, address / this.#pageSize);
    if (this.#slots.owners[slot] !== page) {
      this.#total.misses += 1;
      if (this.#claim(slot, page)) this.#slots.pages(slot).store(this.#slots.index(slot), bytes, at);
      return MISS;
    }
    this.#slots.rounds[slot] = this.#round;
    this.#total.pages += 1;
    const pages = this.#slots.pages(slot);
    const length = pages.update(this.#slots.index(slot), bytes, at);
    if (length === 0) return SAME;
    if (length < 0) {
      this.#total.overflow += 1;
      this.#total.bytes += this.#pageSize;
      return OVERFLOW;
    }
    this.#total.bytes += length + RECORD_BYTES;
    this.#encoded = pages.delta;
    this.#hit.length = length;
    return this.#hit;
  }

  /** Says that a page was sent as a zero page. Does nothing before the first {@link encode}, as in QEMU's first round. */
  storeZero(block: number, address: number): void {
    if (!this.#started) return;
    this.#total.handled += 1;
    const slot = this.#slots.slotOf(block, address / this.#pageSize);
    if (!this.#claim(slot, this.#number(block, address))) return;
    this.#slots.pages(slot).clear(this.#slots.index(slot));
  }

  /**
   * Changes the size while a migration runs; what was cached is forgotten, unless the size is the same.
   *
   * @throws UsageError as the constructor; the cache is as before then.
   */
  resize(cacheBytes: number): void {
    if (cacheBytes === this.#slots.cacheBytes) return;
    this.#slots = new Slots(cacheBytes, this.#pageSize);
  }

  #number(block: number, address: number): number {
    return block * BLOCK_STRIDE + address / this.#pageSize;
  }

  /** Makes a slot a page's own, unless another page has been in it too recently (`cache_insert`). */
  #claim(slot: number, page: number): boolean {
    const { owners, rounds } = this.#slots;
    const owner = owners[slot];
    const isFresh = (rounds[slot] ?? 0) + LIFETIME_ROUNDS > this.#round;
    if (owner !== page && owner !== NO_PAGE && isFresh) return false;
    owners[slot] = page;
    rounds[slot] = this.#round;
    return true;
  }

  /** The rates of the round that ends (`migration_update_rates`). */
  #beginRound(round: number): void {
    if (round === this.#round) return;
    this.#round = round;
    const before = this.#roundStart;
    const handled = this.#total.handled - before.handled;
    const pages = this.#total.pages - before.pages;
    const bytes = this.#total.bytes - before.bytes;
    this.#roundStart = { ...this.#total };
    if (handled === 0) return;
    this.#missRate = (this.#total.misses - before.misses) / handled;
    this.#encodingRate = bytes === 0 ? 0 : (pages * this.#pageSize) / bytes;
  }
}

/** The cache's memory. Untouched parts of it cost nothing: the system gives pages when they are written. */
class Slots {
  readonly cacheBytes: number;
  /** Number of the page in each slot. */
  readonly owners: Float64Array;
  /** Round of the last use of each slot. */
  readonly rounds: Uint32Array;
  readonly #mask: number;
  readonly #perSegment: number;
  readonly #segments: readonly XbzrlePages[];

  constructor(cacheBytes: number, pageSize: number) {
    const count = cacheBytes / pageSize;
    if (!(count >= 1) || count > 2 ** 31 || 2 ** Math.round(Math.log2(count)) !== count) {
      throw new UsageError("The size of the xbzrle cache is not a power of two of at least one page", {
        actual: cacheBytes,
      });
    }
    this.cacheBytes = cacheBytes;
    this.#mask = count - 1;
    this.#perSegment = Math.min(count, SEGMENT_BYTES / pageSize);
    try {
      this.owners = new Float64Array(count).fill(NO_PAGE);
      this.rounds = new Uint32Array(count);
      this.#segments = Array.from({ length: count / this.#perSegment }, () =>
        createXbzrlePages(pageSize, this.#perSegment),
      );
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      const hint = "lower xbzrle-cache-size";
      throw new UsageError("There is no memory for the xbzrle cache", { actual: cacheBytes, hint }, cause);
    }
  }

  slotOf(block: number, page: number): number {
    // The sum passes 2^32 only for blocks of 16 TiB; what is above is cut off on both sides alike.
    return ((page + Math.imul(block, BLOCK_SPREAD)) & this.#mask) >>> 0;
  }

  /** Those that a slot is one of. */
  pages(slot: number): XbzrlePages {
    const segment = this.#segments[Math.floor(slot / this.#perSegment)];
    assert(segment !== undefined, `slot ${slot} of the xbzrle cache`);
    return segment;
  }

  /** Which of its {@link pages} a slot is. */
  index(slot: number): number {
    return slot % this.#perSegment;
  }
}
