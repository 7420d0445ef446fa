/**
 * Whether `length` bytes at `bytes[at]` are all zero.
 *
 * Reads 32-bit integers, but for what is left of one at both ends: a Float64 loop would take -0.0 for zero. Eight of them a
 * turn, by index: an iterator over a typed array is ten times slower.
 */
export function isZero(bytes: Uint8Array, at: number, length: number): boolean {
  if (!looksZero(bytes, at, length)) return false;
  const end = at + length;
  let next = at;
  for (; next < end && ((bytes.byteOffset + next) & 3) !== 0; next++) if (bytes[next] !== 0) return false;
  if (end - next < 4) return allZero(bytes, next, end);
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + next, (end - next) >>> 2);
  const whole = words.length & ~7;
  let index = 0;
  for (; index < whole; index += 8) if (eightWords(words, index) !== 0) return false;
  for (; index < words.length; index++) if (words[index] !== 0) return false;
  return allZero(bytes, next + words.length * 4, end);
}

/** A few bytes decide it for nearly every page that has content, without a view of its own. */
function looksZero(bytes: Uint8Array, at: number, length: number): boolean {
  const step = Math.max(1, length >> 3);
  for (let index = at; index < at + length; index += step) if (bytes[index] !== 0) return false;
  return true;
}

/** Byte by byte: for less than a word. */
function allZero(bytes: Uint8Array, start: number, end: number): boolean {
  for (let index = start; index < end; index++) if (bytes[index] !== 0) return false;
  return true;
}

/** The bits set in any of eight words from `index` on; all eight are there. */
function eightWords(words: Int32Array, index: number): number {
  return (
    word(words, index) |
    word(words, index + 1) |
    word(words, index + 2) |
    word(words, index + 3) |
    word(words, index + 4) |
    word(words, index + 5) |
    word(words, index + 6) |
    word(words, index + 7)
  );
}

function word(words: Int32Array, index: number): number {
  return words[index] ?? 0;
}
