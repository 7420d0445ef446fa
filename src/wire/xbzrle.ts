import { FormatError } from "../errors/index.js";

/**
 * Applies an xbzrle delta to a page in place: alternating runs of `uleb128 unchanged length` and `uleb128 changed
 * length` with that many bytes (`xbzrle_decode_buffer` in QEMU). Bytes behind the last run stay.
 *
 * @param page The page's previous content at the receiver.
 * @throws FormatError `malformed` when the runs leave the page or the delta.
 */
export function applyXbzrle(page: Uint8Array, delta: Uint8Array): void {
  let read = 0;
  let write = 0;
  const uleb128 = (): number => {
    const low = delta[read++] ?? fail();
    if (low < 0x80) return low;
    const high = delta[read++] ?? fail();
    // Page offsets fit 14 bits and more for 64 KiB pages: three bytes at most.
    if (high < 0x80) return (low & 0x7f) | (high << 7);
    const top = delta[read++] ?? fail();
    return (low & 0x7f) | ((high & 0x7f) << 7) | (top << 14);
  };
  const fail = (): never => {
    throw new FormatError("malformed", "An xbzrle delta does not fit its page", {
      section: "ram",
      expected: `runs within ${page.length} bytes`,
      actual: `delta of ${delta.length} bytes, broken at ${read}`,
    });
  };
  while (read < delta.length) {
    write += uleb128();
    if (write > page.length || read >= delta.length) fail();
    const changed = uleb128();
    if (changed === 0 || write + changed > page.length || read + changed > delta.length) fail();
    page.set(delta.subarray(read, read + changed), write);
    read += changed;
    write += changed;
  }
}

/** Longest run whose length QEMU takes: its lengths are uleb128 of at most two bytes. */
const MAX_RUN = 0x3fff;
/** From so many bytes on, a copy by the runtime is faster than a loop. */
const LONG_COPY_BYTES = 64;

/** Bytes that can also be read as 32-bit words: {@link words} are those of `bytes`, without what is left of a word at the end. */
export interface WordReadable {
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
}

/** Bytes with their words; a copy when they do not begin at a multiple of four in their buffer. */
export function wordReadable(source: Uint8Array): WordReadable {
  const bytes = (source.byteOffset & 3) === 0 ? source : source.slice();
  return { bytes, words: new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2) };
}

/**
 * Encodes what changed between two contents of a page, as {@link applyXbzrle} takes it and byte for byte as
 * `xbzrle_encode_buffer` in QEMU does: every byte that is the same ends a changed run.
 *
 * @param old What the receiver has; as long as `fresh`.
 * @param out Gets the delta at `out[at]`; a beginning of it when it does not fit.
 * @param limit Bytes that the delta may have; the end of `out` bounds it as well.
 * @returns Bytes of the delta; 0 when nothing changed; -1 when it does not fit, or has a run that QEMU could not read
 *   (in pages of more than 16 KiB).
 */
export function encodeXbzrle(
  old: Uint8Array,
  fresh: Uint8Array,
  out: Uint8Array,
  at: number,
  limit: number,
): number {
  return encodeXbzrleAt(wordReadable(old), 0, wordReadable(fresh), 0, fresh.length, out, at, limit);
}

/** {@link encodeXbzrle} for pages in larger buffers, without a view for each: both places and the length are multiples of 4. */
export function encodeXbzrleAt(
  old: WordReadable,
  oldAt: number,
  fresh: WordReadable,
  freshAt: number,
  length: number,
  out: Uint8Array,
  at: number,
  limit: number,
): number {
  const shift = oldAt - freshAt;
  const pageEnd = freshAt + length;
  const outEnd = Math.min(at + limit, out.length);
  let write = at;
  for (let run = freshAt; ;) {
    const changed = skipSame(old, fresh, shift, run, pageEnd);
    if (changed === pageEnd) return write - at;
    const end = skipChanged(old, fresh, shift, changed, pageEnd);
    const sameBytes = changed - run;
    const changedBytes = end - changed;
    if (sameBytes > MAX_RUN || changedBytes > MAX_RUN) return -1;
    const headBytes = (sameBytes < 0x80 ? 1 : 2) + (changedBytes < 0x80 ? 1 : 2);
    if (write + headBytes + changedBytes > outEnd) return -1;
    write = putRunLength(out, write, sameBytes);
    write = putRunLength(out, write, changedBytes);
    copy(fresh.bytes, changed, end, out, write);
    write += changedBytes;
    run = end;
  }
}

/** The first byte from `from` on that differs, or `end`. */
function skipSame(old: WordReadable, fresh: WordReadable, shift: number, from: number, end: number): number {
  let at = from;
  while ((at & 3) !== 0) {
    if (at === end || old.bytes[at + shift] !== fresh.bytes[at]) return at;
    at += 1;
  }
  at = skipSameWords(old.words, fresh.words, shift >> 2, at >>> 2, end >>> 2) << 2;
  while (at < end && old.bytes[at + shift] === fresh.bytes[at]) at += 1;
  return at;
}

/** The first word from `from` on that differs, or `end`; eight at a time while they are all the same. */
function skipSameWords(old: Int32Array, fresh: Int32Array, shift: number, from: number, end: number): number {
  let word = from;
  while (word + 8 <= end && eightSame(old, word + shift, fresh, word)) word += 8;
  while (word < end && old[word + shift] === fresh[word]) word += 1;
  return word;
}

function eightSame(old: Int32Array, oldAt: number, fresh: Int32Array, at: number): boolean {
  return (
    old[oldAt] === fresh[at] &&
    old[oldAt + 1] === fresh[at + 1] &&
    old[oldAt + 2] === fresh[at + 2] &&
    old[oldAt + 3] === fresh[at + 3] &&
    old[oldAt + 4] === fresh[at + 4] &&
    old[oldAt + 5] === fresh[at + 5] &&
    old[oldAt + 6] === fresh[at + 6] &&
    old[oldAt + 7] === fresh[at + 7]
  );
}

/** The first byte from `from` on that is the same, or `end`. */
function skipChanged(
  old: WordReadable,
  fresh: WordReadable,
  shift: number,
  from: number,
  end: number,
): number {
  let at = from;
  while ((at & 3) !== 0) {
    if (at === end || old.bytes[at + shift] === fresh.bytes[at]) return at;
    at += 1;
  }
  const wordEnd = end >>> 2;
  const wordShift = shift >> 2;
  let word = at >>> 2;
  while (word < wordEnd) {
    const difference = (old.words[word + wordShift] ?? 0) ^ (fresh.words[word] ?? 0);
    // A byte of it is zero: the well-known test for a zero byte in a word.
    if (((difference - 0x01010101) & ~difference & 0x80808080) !== 0) break;
    word += 1;
  }
  at = word << 2;
  while (at < end && old.bytes[at + shift] !== fresh.bytes[at]) at += 1;
  return at;
}

function putRunLength(out: Uint8Array, at: number, length: number): number {
  if (length < 0x80) {
    out[at] = length;
    return at + 1;
  }
  out[at] = (length & 0x7f) | 0x80;
  out[at + 1] = length >>> 7;
  return at + 2;
}

function copy(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void {
  if (end - start >= LONG_COPY_BYTES) {
    to.set(from.subarray(start, end), at);
    return;
  }
  for (let index = start; index < end; index++) to[at + index - start] = from[index] ?? 0;
}
