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
