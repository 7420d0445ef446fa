/**
 * The page hash: NH of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway 1999; RFC 4418) in four passes, then a multilinear
 * hash. Both are universal: their bounds are proven for any two pages, however alike, and rest on nothing but the key
 * being random and unknown to who wrote the pages. That is why no faster mix was taken: those are only tried.
 *
 * A page is `m[0], m[1], ...`: 32-bit little-endian words. All additions of words are modulo 2^32, sums modulo 2^64.
 *
 * - Sum `p` of 0 to 3, over all `b` and `i` of 0 to 3:
 *   `(m[8b + i] + k[8(b + p) + i]) * (m[8b + i + 4] + k[8(b + p) + i + 4])`. Two different pages agree in one sum with a
 *   probability of at most 2^-32. The sums use one key from four places (the Toeplitz construction): all four agree with
 *   at most 2^-128.
 * - The halves of the sums, low ones first, are `x[0] .. x[7]`. Word `j` of the hash is the upper half of
 *   `q[9j] + q[9j + 1] * x[0] + ... + q[9j + 8] * x[7]`. This is strongly universal (Dietzfelbinger 1996; Lemire and
 *   Kaser 2014): different sums give the same 128 bits with a probability of 2^-128, and a changed page changes each bit
 *   of the hash with a probability of one half.
 *
 * So two different pages have the same hash with a probability of at most **2^-127**. A guest of 1 TiB that is compared
 * a million times makes 2^48 comparisons: some page is missed with at most 2^-79.
 *
 * @module
 */

import { assert } from "../errors/index.js";

/** Bytes of a hash. */
export const PAGE_HASH_BYTES = 16;
/** Sums over a page. */
export const NH_PASSES = 4;
/** 32-bit words that one turn of the loop takes; also how far apart the key's four places are. */
export const NH_TURN_WORDS = 8;
/** 64-bit integers of the key for each 32-bit word of the hash: a constant, and a factor for each half of a sum. */
export const ROW_INTEGERS = 1 + 2 * NH_PASSES;

/** `crypto.getRandomValues` gives no more at once. */
const RANDOM_BYTES = 65536;

/** 32-bit words of a key for pages of so many bytes: those of the sums, then the integers of the rows. */
export function pageHashKeyWords(pageSize: number): number {
  assert(pageSize > 0 && pageSize % (4 * NH_TURN_WORDS) === 0, `hashes of pages of ${pageSize} bytes`);
  return pageSize / 4 + (NH_PASSES - 1) * NH_TURN_WORDS + (PAGE_HASH_BYTES / 4) * ROW_INTEGERS * 2;
}

/** A random key for pages of so many bytes. A new one for each use: hashes under a key that is known can be made to collide. */
export function randomPageHashKey(pageSize: number): Uint32Array {
  const key = new Uint8Array(pageHashKeyWords(pageSize) * 4);
  for (let at = 0; at < key.length; at += RANDOM_BYTES) {
    crypto.getRandomValues(key.subarray(at, at + RANDOM_BYTES));
  }
  return new Uint32Array(key.buffer);
}
