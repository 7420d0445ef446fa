import type { PageSource } from "../engine/index.js";
import { ORDINARY_HOST_PAGE_BYTES } from "../engine/outgoing/postcopy/page-source.js";
import { PageBitmap } from "../memory/index.js";
import type { Snapshot } from "../snapshot/index.js";

/**
 * The pages of any snapshot, as a postcopy source hands them out. Only which pages have content is held in memory.
 *
 * @param hostPageSizeOf Bytes that the destination places at once, by block.
 * @throws What reading the snapshot does.
 */
export function pagesOfSnapshot(
  snapshot: Snapshot,
  hostPageSizeOf: (block: string) => number | undefined,
): PageSource {
  const { blocks, targetPageSize } = snapshot;
  const ordinary = Math.max(ORDINARY_HOST_PAGE_BYTES, targetPageSize);
  return {
    targetPageSize,
    blocks: blocks.map((block) => {
      const { name, usedLength, pageCount } = block;
      const content = new PageBitmap(pageCount);
      for (const { start, end } of snapshot.presentRuns(block)) content.setRange(start, end);
      return { name, usedLength, hostPageSize: hostPageSizeOf(name) ?? ordinary, content };
    }),
    looksForZeros: false,
    readPages: (index, firstPage, target) => {
      const block = blocks[index];
      if (block !== undefined) snapshot.readPages(block, firstPage, target);
    },
  };
}

/** Bytes of a guest's memory that have content. */
export function contentBytes({ blocks, targetPageSize }: PageSource): number {
  return blocks.reduce((sum, { content }) => sum + content.count(), 0) * targetPageSize;
}
