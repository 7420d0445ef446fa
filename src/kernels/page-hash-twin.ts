import { highHalf, lowHalf } from "./halves.js";
import {
  NH_PASSES,
  NH_TURN_WORDS,
  PAGE_HASH_BYTES,
  pageHashKeyWords,
  ROW_INTEGERS,
} from "./page-hash-key.js";
import type { PageHasher } from "./page-hasher.js";

const TWO_32 = 2 ** 32;
const HASH_WORDS = PAGE_HASH_BYTES / 4;

/**
 * The page hash without WebAssembly: what the kernel is held to, and what runs where it cannot. It takes words in the
 * machine's byte order: its hashes are the kernel's on little-endian machines.
 */
export class PageHashTwin implements PageHasher {
  readonly staging: Uint8Array;
  readonly hashes: Uint32Array;
  readonly #pageWords: number;
  readonly #key: Uint32Array;
  readonly #words: Uint32Array;
  /** Halves of the sums over one page, low ones first. */
  readonly #halves = new Float64Array(2 * NH_PASSES);

  /**
   * @param key {@link pageHashKeyWords} random words.
   * @param stagingBytes A multiple of the page size.
   */
  constructor(pageSize: number, key: Uint32Array, stagingBytes: number) {
    this.#pageWords = pageSize / 4;
    this.#key = key.slice(0, pageHashKeyWords(pageSize));
    this.#words = new Uint32Array(stagingBytes / 4);
    this.staging = new Uint8Array(this.#words.buffer);
    this.hashes = new Uint32Array((stagingBytes / pageSize) * HASH_WORDS);
  }

  hash(pages: Uint8Array): void {
    this.staging.set(pages);
    const count = pages.length / 4 / this.#pageWords;
    for (let page = 0; page < count; page++) {
      for (let pass = 0; pass < NH_PASSES; pass++) this.#sum(page, pass);
      for (let word = 0; word < HASH_WORDS; word++) this.hashes[page * HASH_WORDS + word] = this.#row(word);
    }
  }

  /** Low and high halves of the products are added up apart: the sums stay far below 2^53. */
  #sum(page: number, pass: number): void {
    const words = this.#words;
    const key = this.#key;
    const start = page * this.#pageWords;
    const keyStart = pass * NH_TURN_WORDS;
    let low = 0;
    let high = 0;
    for (let turn = 0; turn < this.#pageWords; turn += NH_TURN_WORDS) {
      for (let lane = 0; lane < NH_TURN_WORDS / 2; lane++) {
        const at = turn + lane;
        const left = ((words[start + at] ?? 0) + (key[keyStart + at] ?? 0)) >>> 0;
        const right = ((words[start + at + 4] ?? 0) + (key[keyStart + at + 4] ?? 0)) >>> 0;
        low += lowHalf(left, right);
        high += highHalf(left, right);
      }
    }
    this.#halves[2 * pass] = low % TWO_32;
    this.#halves[2 * pass + 1] = (high + Math.floor(low / TWO_32)) % TWO_32;
  }

  /** One word of the hash. */
  #row(word: number): number {
    const key = this.#key;
    const start = key.length - (HASH_WORDS - word) * ROW_INTEGERS * 2;
    let low = key[start] ?? 0;
    let high = key[start + 1] ?? 0;
    for (let index = 0; index < 2 * NH_PASSES; index++) {
      const half = this.#halves[index] ?? 0;
      const factor = start + 2 + 2 * index;
      low += lowHalf(key[factor] ?? 0, half);
      high += highHalf(key[factor] ?? 0, half) + lowHalf(key[factor + 1] ?? 0, half);
    }
    return (high + Math.floor(low / TWO_32)) % TWO_32;
  }
}
