import type { Breathe } from "../breathe.js";

/** A slice of comparing or hashing: less than a millisecond of work. */
const SLICE_BYTES = 4 << 20;

/**
 * Walks over blocks of memory in slices, with a breath after each.
 *
 * @param lengths Bytes of each block.
 * @param work Looks at one slice.
 * @returns Milliseconds that the work took, without the breaths.
 */
export async function walkMemory(
  lengths: readonly number[],
  breathe: Breathe | undefined,
  work: (block: number, address: number, length: number) => void,
): Promise<number> {
  let workMs = 0;
  for (const [block, length] of lengths.entries()) {
    for (let address = 0; address < length; address += SLICE_BYTES) {
      const startMs = performance.now();
      work(block, address, Math.min(SLICE_BYTES, length - address));
      workMs += performance.now() - startMs;
      await breathe?.();
    }
  }
  return workMs;
}
