import { FormatError } from "../errors/index.js";
import { DEFAULT_TARGET_PAGE_SIZE, SectionType } from "./constants.js";
import { RamRecordDecoder, type RamRecordSink } from "./ram-records.js";
import { SECTION_FOOTER_BYTES } from "./section.js";

/**
 * Target page sizes that guests have: the usual one, then the small ones first. A size that is too small is found out at
 * once; one that is too large only when a page of it has come, which a small guest may not have.
 */
const PAGE_SIZES = [DEFAULT_TARGET_PAGE_SIZE, 256, 512, 1024, 2048, 8192, 16_384, 32_768, 65_536] as const;
/** A guest's first pages follow each other. When so many all skip some, their size is another one. */
const ENOUGH_RECORDS = 64;

/** Bytes of a later part's head: type and section id. */
const PART_HEAD_BYTES = 5;

/** What {@link searchTargetPageSize} needs to know. */
export interface PageSizeSearch {
  readonly blocks: readonly { readonly name: string; readonly usedLength: number }[];
  readonly ramSectionId: number;
}

/**
 * Tells the target page size from the first RAM records: with any other size they make no sense, or skip pages all the time.
 *
 * @param bytes What follows the block list.
 * @returns The size; undefined when nothing fits; `need-more` when more bytes are needed to tell. More always come then: RAM
 *   has not ended, and not many pages were seen.
 */
export function searchTargetPageSize(
  bytes: Uint8Array,
  search: PageSizeSearch,
): number | "need-more" | undefined {
  let fallback: number | undefined;
  for (const pageSize of PAGE_SIZES) {
    const fit = tryPageSize(bytes, search, pageSize);
    if (fit === "yes" || fit === "need-more") return fit === "yes" ? pageSize : fit;
    if (fit === "perhaps") fallback ??= pageSize;
  }
  return fallback;
}

/** `perhaps`: nothing speaks against it, and no page that only this size has was seen. */
type Fit = "yes" | "perhaps" | "no" | "need-more";

function tryPageSize(bytes: Uint8Array, { blocks, ramSectionId }: PageSizeSearch, pageSize: number): Fit {
  if (blocks.some(({ usedLength }) => usedLength % pageSize !== 0)) return "no";
  const seen = new SeenAddresses(pageSize);
  const decoder = new RamRecordDecoder(blocks, pageSize, seen);
  let ended = false;
  for (let position = 0; !seen.isSure && !ended;) {
    try {
      position = decoder.decode(bytes, position, bytes.length, 0);
    } catch (error) {
      if (error instanceof FormatError) return "no";
      throw error;
    }
    if (decoder.stop === "need-more") break;
    const next = laterPart(bytes, position, ramSectionId);
    if (next === "need-more") break;
    if (next === undefined) ended = true;
    else position = next;
  }
  if (seen.isSure) return "yes";
  return ended || seen.count >= ENOUGH_RECORDS ? "perhaps" : "need-more";
}

/** Where the records of RAM's next part begin; undefined when something else follows the part that ended at `position`. */
function laterPart(
  bytes: Uint8Array,
  position: number,
  ramSectionId: number,
): number | "need-more" | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = position;
  if (bytes[at] === SectionType.FOOTER) at += SECTION_FOOTER_BYTES;
  const type = bytes[at];
  if (type === undefined) return "need-more";
  if (type !== SectionType.PART && type !== SectionType.END) return undefined;
  if (at + PART_HEAD_BYTES > bytes.length) return "need-more";
  return view.getUint32(at + 1) === ramSectionId ? at + PART_HEAD_BYTES : undefined;
}

/** Looks for a page of an odd number: with a larger page size there is none. */
class SeenAddresses implements RamRecordSink {
  count = 0;
  isSure = false;
  readonly #pageSize: number;

  constructor(pageSize: number) {
    this.#pageSize = pageSize;
  }

  page(_block: number, address: number): void {
    this.count += 1;
    if ((address / this.#pageSize) % 2 === 1) this.isSure = true;
  }

  zeroPage(block: number, address: number): void {
    this.page(block, address);
  }

  xbzrlePage(block: number, address: number): void {
    this.page(block, address);
  }

  compressedPage(block: number, address: number): void {
    this.page(block, address);
  }
}
