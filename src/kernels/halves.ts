/** Lower 32 bits of a product of two 32-bit numbers. */
export function lowHalf(left: number, right: number): number {
  return Math.imul(left, right) >>> 0;
}

/** Upper 32 bits of a product of two unsigned 32-bit numbers, by their 16-bit halves: no step passes 2^32. */
export function highHalf(left: number, right: number): number {
  const leftLow = left & 0xffff;
  const leftHigh = left >>> 16;
  const rightLow = right & 0xffff;
  const rightHigh = right >>> 16;
  const first = leftHigh * rightLow + ((leftLow * rightLow) >>> 16);
  const second = leftLow * rightHigh + (first & 0xffff);
  return leftHigh * rightHigh + (first >>> 16) + (second >>> 16);
}
