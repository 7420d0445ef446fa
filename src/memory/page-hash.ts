/**
 * Writes a 64-bit hash of `length` bytes at `bytes[at]` into `target[0]` and `target[1]`: two MurmurHash3 (x86, 32 bits)
 * of different seeds and constants in one walk. It finds equal pages; it does not withstand somebody who makes others
 * collide on purpose, and differs with the machine's byte order.
 *
 * @param length A multiple of 4, as is the place in the buffer: pages in a buffer of whole pages are.
 */
export function hashPage(bytes: Uint8Array, at: number, length: number, target: Uint32Array): void {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + at, length >>> 2);
  let low = 0x9747b28c | 0;
  let high = 0x1b873593 | 0;
  const count = words.length;
  // By index: an iterator over a typed array is many times slower.
  for (let index = 0; index < count; index++) {
    const word = words[index] ?? 0;
    let mixed = Math.imul(word, 0xcc9e2d51);
    mixed = Math.imul((mixed << 15) | (mixed >>> 17), 0x1b873593);
    low ^= mixed;
    low = (Math.imul((low << 13) | (low >>> 19), 5) + 0xe6546b64) | 0;
    mixed = Math.imul(word, 0x239b961b);
    mixed = Math.imul((mixed << 16) | (mixed >>> 16), 0xab0e9789);
    high ^= mixed;
    high = (Math.imul((high << 17) | (high >>> 15), 9) + 0x0bcaa747) | 0;
  }
  target[0] = finish(low ^ length);
  target[1] = finish(high ^ length);
}

/** Lets every bit of the state reach every bit of the hash. */
function finish(state: number): number {
  let hash = state;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
