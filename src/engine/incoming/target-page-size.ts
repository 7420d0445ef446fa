import { FormatError } from "../../errors/index.js";
import {
  DEFAULT_TARGET_PAGE_SIZE,
  Limits,
  RAM_SECTION,
  type RamBlockEntry,
  searchTargetPageSize,
} from "../../wire/index.js";
import type { StreamInput } from "../stream-input.js";

/** How far ahead is looked for the target page size; two pages tell it. */
const SEARCH_BYTES = 1 << 20;

/** The target page size that the first RAM records show; the input stands behind the block list, and stays there. */
export async function findTargetPageSize(
  input: StreamInput,
  blocks: readonly RamBlockEntry[],
  ramSectionId: number,
): Promise<number> {
  while (true) {
    const ahead = input.bytes.subarray(input.position, input.end);
    const found = searchTargetPageSize(ahead, { blocks, ramSectionId });
    if (found !== "need-more") return found ?? DEFAULT_TARGET_PAGE_SIZE;
    if (ahead.length >= SEARCH_BYTES || !(await input.fill())) return DEFAULT_TARGET_PAGE_SIZE;
  }
}

/**
 * Checks that the blocks are so many whole pages as a guest can have.
 *
 * @throws FormatError otherwise.
 */
export function checkPages(blocks: readonly RamBlockEntry[], pageSize: number, offset: number): void {
  const place = { offset, section: RAM_SECTION.name };
  const pages = blocks.reduce((sum, block) => sum + block.usedLength / pageSize, 0);
  if (pages > Limits.pages) {
    throw new FormatError("limit-exceeded", "The guest has too many pages", {
      ...place,
      expected: `at most ${Limits.pages}`,
      actual: pages,
    });
  }
  const odd = blocks.find((block) => block.usedLength % pageSize !== 0);
  if (odd === undefined) return;
  throw new FormatError("malformed", "A RAM block is no multiple of the target page size", {
    ...place,
    block: odd.name,
    expected: `a multiple of ${pageSize}`,
    actual: odd.usedLength,
  });
}
