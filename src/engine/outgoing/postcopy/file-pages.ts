import type { RandomAccessSource } from "../../../channels/index.js";
import { FormatError } from "../../../errors/index.js";
import { RAM_SECTION } from "../../../wire/index.js";
import { readPageBitmap } from "../../mapped-ram/bitmaps.js";
import type { MappedRamFile } from "../../mapped-ram/open.js";
import { readInFull } from "../../read-in-full.js";
import { ORDINARY_HOST_PAGE_BYTES, type PageSource } from "./page-source.js";

/** Host page size of a block in bytes, by its name; undefined for the ordinary one. */
export type HostPageSizeOf = (block: string) => number | undefined;

/**
 * The pages of a mapped-ram file, read from their places. Only the bitmaps are held in memory.
 *
 * @throws FormatError `truncated` when the file ends in a bitmap, `unsupported` for a block that was left out.
 */
export function pagesOfMappedRam(
  file: RandomAccessSource,
  { blocks, pageSize }: Pick<MappedRamFile, "blocks" | "pageSize">,
  hostPageSizeOf: HostPageSizeOf = () => undefined,
): PageSource {
  const ordinary = Math.max(ORDINARY_HOST_PAGE_BYTES, pageSize);
  const offsets: number[] = [];
  const described = blocks.map((block) => {
    const { name, usedLength, mapped } = block;
    if (mapped === undefined) throw leftOut(name);
    offsets.push(mapped.pagesOffset);
    const content = readPageBitmap(file, block);
    return { name, usedLength, hostPageSize: hostPageSizeOf(name) ?? ordinary, content };
  });
  return {
    targetPageSize: pageSize,
    blocks: described,
    looksForZeros: false,
    readPages: (block, firstPage, target) => {
      const position = (offsets[block] ?? 0) + firstPage * pageSize;
      const place = { section: RAM_SECTION.name, block: described[block]?.name ?? "" };
      readInFull(file, target, position, "The file became shorter while it was read", place);
    },
  };
}

function leftOut(block: string): FormatError {
  const message = "A RAM block's memory is not in the file: it was saved with x-ignore-shared";
  const hint = "QEMU takes such a snapshot only as a whole, without postcopy";
  return new FormatError("unsupported", message, { section: RAM_SECTION.name, block, hint });
}
