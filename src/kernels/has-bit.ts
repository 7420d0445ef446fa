/** Whether the bit of a page is set in what `findContent` and `findChanged` of a `PageScanner` return. */
export function hasBit(bits: Uint8Array, page: number): boolean {
  return (((bits[page >>> 3] ?? 0) >>> (page & 7)) & 1) === 1;
}
