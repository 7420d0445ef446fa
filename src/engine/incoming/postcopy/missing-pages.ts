import { assert, FormatError } from "../../../errors/index.js";
import { PageBitmap } from "../../../memory/index.js";
import { RAM_SECTION } from "../../../wire/index.js";
import type { PostcopyBlock, PostcopyStart } from "../../postcopy/postcopy-host.js";

/** A block, and what is still missing of it. */
export interface MissingBlock {
  readonly name: string;
  /** Place in the host's list. */
  readonly index: number;
  /** Bytes. */
  readonly usedLength: number;
  /** Bytes. */
  readonly hostPageSize: number;
  /** How many host pages the blocks before it have: tells host pages of all blocks apart. */
  readonly firstHostPage: number;
  /** A bit for each target page. Undefined for a block that does not travel. */
  readonly received: PageBitmap | undefined;
}

/** Which pages have come: the received bitmaps that QEMU calls `receivedmap`, a bit for each target page. */
export class MissingPages {
  /** In the order of the migration's block list. */
  readonly blocks: readonly MissingBlock[];
  readonly targetPageSize: number;
  readonly #byHostIndex: ReadonlyMap<number, MissingBlock>;

  /** @throws FormatError `inconsistent` when a part of a host page has come, and was not discarded. */
  constructor({ blocks, targetPageSize }: Pick<PostcopyStart, "blocks" | "targetPageSize">) {
    this.targetPageSize = targetPageSize;
    let firstHostPage = 0;
    this.blocks = blocks.map((block) => {
      const state = { ...missingBlock(block, targetPageSize), firstHostPage };
      firstHostPage += block.usedLength / block.hostPageSize;
      return state;
    });
    this.#byHostIndex = new Map(this.blocks.map((block) => [block.index, block]));
  }

  /** By the place in the migration's block list. */
  block(place: number): MissingBlock {
    const block = this.blocks[place];
    assert(block !== undefined, `RAM block ${place} of ${this.blocks.length}`);
    return block;
  }

  /** By the place in the host's list. */
  ofHost(index: number): MissingBlock {
    const block = this.#byHostIndex.get(index);
    assert(block !== undefined, `the host has no block ${index} that migrates`);
    return block;
  }

  /** Whether a page of the block is there; whole host pages come, so any address in one does. */
  has({ received }: MissingBlock, address: number): boolean {
    return received === undefined || received.has(Math.floor(address / this.targetPageSize));
  }

  /** Notes that pages were placed. Bytes: whole host pages. */
  placed({ received }: MissingBlock, address: number, length: number): void {
    received?.setRange(address / this.targetPageSize, (address + length) / this.targetPageSize);
  }
}

function missingBlock(
  { name, index, usedLength, hostPageSize, received }: PostcopyBlock,
  targetPageSize: number,
): Omit<MissingBlock, "firstHostPage"> {
  assert(
    hostPageSize % targetPageSize === 0 && usedLength % hostPageSize === 0,
    `${name} is no multiple of its host pages`,
  );
  const bitmap = received && PageBitmap.fromBytes(usedLength / targetPageSize, received);
  if (bitmap !== undefined) checkWholePages(bitmap, name, hostPageSize / targetPageSize, targetPageSize);
  return { name, index, usedLength, hostPageSize, received: bitmap };
}

/** What was received in part could neither be kept nor be placed again. */
function checkWholePages(
  received: PageBitmap,
  block: string,
  pagesPerHostPage: number,
  pageSize: number,
): void {
  if (pagesPerHostPage === 1) return;
  for (const { start, end } of received.runs()) {
    const odd = start % pagesPerHostPage === 0 ? end : start;
    if (odd % pagesPerHostPage === 0) continue;
    throw new FormatError(
      "inconsistent",
      "A part of a host page came before postcopy, and was not discarded",
      {
        section: RAM_SECTION.name,
        block,
        expected: `whole host pages of ${pagesPerHostPage * pageSize} bytes`,
        actual: `page at 0x${(odd * pageSize).toString(16)}`,
      },
    );
  }
}
