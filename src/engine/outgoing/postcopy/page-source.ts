import { assert, FormatError } from "../../../errors/index.js";
import type { PageBitmap } from "../../../memory/index.js";
import { type PostcopyAdvice, RAM_SECTION } from "../../../wire/index.js";

/**
 * Bytes of the pages that a host without huge pages places at once: those of x86, and the smallest of the others. Where nobody says
 * how a machine places pages, it is this.
 */
export const ORDINARY_HOST_PAGE_BYTES = 4096;

/** A RAM block whose pages a postcopy destination asks for. */
export interface PostcopyBlock {
  /** As in the block list: `pc.ram`. */
  readonly name: string;
  /** Bytes; a multiple of {@link hostPageSize}. */
  readonly usedLength: number;
  /** Bytes of what the destination places at once: 4 KiB, or 2 MiB for a block in huge pages. */
  readonly hostPageSize: number;
  /** A bit for each target page: clear only where it is known to be zero. */
  readonly content: PageBitmap;
}

/** Where pages come from: a file, or the memory of a guest that stands still. */
export interface PageSource {
  /** Bytes. */
  readonly targetPageSize: number;
  /** In the order of the block list. */
  readonly blocks: readonly PostcopyBlock[];
  /** Whether pages with a set bit may be zero nevertheless: then they are looked at before they are sent. */
  readonly looksForZeros: boolean;
  /**
   * Fills `target` with as many pages as it holds, all of them with content, from target page `firstPage` of a block on.
   *
   * @throws MachineError `io`; FormatError `truncated` where a file became shorter.
   */
  readPages(block: number, firstPage: number, target: Uint8Array): void;
}

/**
 * Checks that blocks consist of whole host pages of whole target pages, as a destination places them.
 *
 * @throws FormatError `unsupported` for one that does not.
 */
export function checkHostPages({ blocks, targetPageSize }: PageSource): void {
  for (const { name, usedLength, hostPageSize } of blocks) {
    if (hostPageSize % targetPageSize === 0 && usedLength % hostPageSize === 0) continue;
    throw new FormatError("unsupported", "A RAM block does not consist of whole host pages", {
      section: RAM_SECTION.name,
      block: name,
      expected: `a multiple of ${hostPageSize}, which is one of ${targetPageSize}`,
      actual: usedLength,
    });
  }
}

/** Host page size of a block by its number, in bytes. */
export function hostPageSizeIn({ blocks }: PageSource, block: number): number {
  const described = blocks[block];
  assert(described !== undefined, `no block ${block}`);
  return described.hostPageSize;
}

/** What ADVISE tells the destination of these pages. */
export function adviceFor({
  blocks,
  targetPageSize,
}: Pick<PageSource, "blocks" | "targetPageSize">): PostcopyAdvice {
  // By BigInt: page sizes of 4 GiB and more do not fit the 32 bits of `|`.
  const sizes = blocks.reduce((sum, { hostPageSize }) => sum | BigInt(hostPageSize), 0n);
  return { hostPageSizes: Number(sizes), targetPageSize };
}
