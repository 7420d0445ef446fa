import { FormatError } from "../../errors/index.js";
import {
  bitmapBytes,
  Limits,
  type MappedRamHeader,
  RAM_SECTION,
  type RamBlockEntry,
} from "../../wire/index.js";

/**
 * Checks what must hold before anything is allocated or read by these numbers; QEMU 10.0 crashes or loads garbage on some.
 *
 * @returns Whether the page size is possible at all.
 */
export function checkMappedBlock(
  entry: RamBlockEntry,
  mapped: MappedRamHeader,
  offset: number,
  sizeBytes: number,
  onProblem: (problem: FormatError) => void,
): boolean {
  const { pageSize, bitmapOffset, pagesOffset } = mapped;
  const fail = (code: "malformed" | "truncated", message: string, expected: string, actual: number): void => {
    const place = { offset, section: RAM_SECTION.name, block: entry.name };
    onProblem(new FormatError(code, message, { ...place, expected, actual }));
  };
  const { minTargetPageSize, maxTargetPageSize } = Limits;
  if (pageSize < minTargetPageSize || pageSize > maxTargetPageSize || (pageSize & (pageSize - 1)) !== 0) {
    const expected = `a power of two from ${minTargetPageSize} to ${maxTargetPageSize}`;
    fail("malformed", "The page size of a RAM block is impossible", expected, pageSize);
    return false;
  }
  if (entry.usedLength % pageSize !== 0) {
    fail(
      "malformed",
      "A RAM block is no multiple of its page size",
      `a multiple of ${pageSize}`,
      entry.usedLength,
    );
  }
  if (pagesOffset % pageSize !== 0) {
    fail("malformed", "The pages of a RAM block are not aligned", `a multiple of ${pageSize}`, pagesOffset);
  }
  const bitmapEnd = bitmapOffset + bitmapBytes(entry.usedLength / pageSize);
  if (bitmapEnd > sizeBytes)
    fail("truncated", "A bitmap lies past the end of the file", `at most ${sizeBytes}`, bitmapEnd);
  const pagesEnd = pagesOffset + entry.usedLength;
  if (pagesEnd > sizeBytes)
    fail("truncated", "Pages lie past the end of the file", `at most ${sizeBytes}`, pagesEnd);
  return true;
}
