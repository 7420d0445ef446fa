import { assert, FormatError } from "../../errors/index.js";
import {
  ByteWriter,
  type Configuration,
  encodeBlockListEntry,
  encodeBlockListHead,
  encodeMappedRamHeader,
  encodeSectionHeader,
  planMappedRamBlock,
  type RamBlockEntry,
  type SectionHeader,
  SectionType,
  type StreamTail,
} from "../../wire/index.js";
import type { MigrationTarget, RamSectionType } from "../migration-target.js";
import { encodeRamPartEnd, encodeStreamHead, endOfStream } from "../stream-frames.js";
import { IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY } from "./capability.js";
import { type PageCounts, type PlacedBlock, PlacedPages } from "./placed-pages.js";
import type { PositionedFile } from "./positioned-file.js";

/** How a {@link MappedRamWriter} lays its file out. */
export interface MappedRamWriterOptions {
  /** Where in the file the stream begins, in bytes: the N of `file:PATH,offset=N`. 0 when not given. */
  readonly startOffset?: number;
  /**
   * Names of the blocks that the source left out, with x-ignore-shared: they are listed and have no pages, as QEMU 11.1
   * writes them. Without this such a migration is refused: while it comes in, nothing tells these blocks from others.
   */
  readonly leftOut?: ReadonlySet<string>;
}

/**
 * Writes a mapped-ram file in QEMU's layout: every page has one fixed place however often it comes, so the file cannot
 * outgrow the guest's RAM. Bitmaps are written once no page can come any more, the devices and the end of the stream
 * behind them: a file whose writer died in between has no end, and no loader takes it for whole.
 */
export class MappedRamWriter implements MigrationTarget {
  readonly #file: PositionedFile;
  readonly #startOffset: number;
  readonly #leftOut: ReadonlySet<string> | undefined;
  readonly #scratch = new ByteWriter();
  /** Those that have pages: the others have no bitmap. */
  #bitmapOffsets: readonly (number | undefined)[] = [];
  #pages = new PlacedPages([], 0);
  #ramId = 0;
  #partWritten = false;
  #endWritten = false;
  #footers = true;
  /** Where the next thing behind the page areas goes; 0 while everything still gathers in the scratch. */
  #appendPosition = 0;
  #capabilities: readonly string[] = [];

  constructor(file: PositionedFile, options: MappedRamWriterOptions = {}) {
    this.#file = file;
    this.#startOffset = options.startOffset ?? 0;
    this.#leftOut = options.leftOut;
  }

  get pageCounts(): PageCounts {
    return this.#pages.counts;
  }

  configuration(configuration: Configuration | undefined): void {
    if (configuration === undefined) {
      throw new FormatError(
        "unsupported",
        "The stream does not say its machine type, as a mapped-ram file must",
        {
          hint: "machine types of QEMU 2.3 and older send no configuration section",
        },
      );
    }
    if (this.#leftOut === undefined && configuration.capabilities.includes(IGNORE_SHARED_CAPABILITY)) {
      throw new FormatError(
        "unsupported",
        "Shared RAM that the source leaves out cannot be told from zero pages",
        {
          section: "configuration",
          hint: "turn x-ignore-shared off at the source, or save the stream into a file for ramport convert",
        },
      );
    }
    this.#capabilities = [...configuration.capabilities, MAPPED_RAM_CAPABILITY];
    encodeStreamHead(this.#scratch, { ...configuration, capabilities: this.#capabilities });
  }

  verbatim(bytes: Uint8Array): void {
    if (this.#appendPosition === 0) this.#scratch.raw(bytes);
    else this.#append(bytes);
  }

  ramStart(header: SectionHeader, blocks: readonly RamBlockEntry[], pageSize: number): PlacedPages {
    assert(this.#appendPosition === 0, "a second RAM section");
    this.#ramId = header.id;
    encodeSectionHeader(this.#scratch, SectionType.START, header);
    encodeBlockListHead(
      this.#scratch,
      blocks.reduce((sum, block) => sum + block.usedLength, 0),
    );
    let position = this.#startOffset;
    const placed: PlacedBlock[] = [];
    const bitmapOffsets: (number | undefined)[] = [];
    for (const { name, usedLength, guestAddress } of blocks) {
      // Only migrations with x-ignore-shared have a guest address here. A host page size is postcopy's, and no part of this.
      const entry = { name, usedLength, ...(guestAddress === undefined ? {} : { guestAddress }) };
      encodeBlockListEntry(this.#scratch, entry);
      if (this.#leftOut?.has(name) === true) {
        encodeMappedRamHeader(this.#scratch, { pageSize, bitmapOffset: 0, pagesOffset: 0 });
        placed.push({ name });
        bitmapOffsets.push(undefined);
        continue;
      }
      const { endOffset, ...mapped } = planMappedRamBlock(
        position + this.#scratch.length,
        usedLength,
        pageSize,
      );
      encodeMappedRamHeader(this.#scratch, mapped);
      assert(position + this.#scratch.length === mapped.bitmapOffset, "the bitmap follows its header");
      this.#file.writeAt(this.#scratch.finish(), 0, this.#scratch.length, position);
      this.#scratch.clear();
      position = endOffset;
      const place = { file: this.#file, position: mapped.pagesOffset, pageCount: usedLength / pageSize };
      placed.push({ name, place });
      bitmapOffsets.push(mapped.bitmapOffset);
    }
    this.#pages = new PlacedPages(placed, pageSize);
    this.#bitmapOffsets = bitmapOffsets;
    this.#appendPosition = position;
    // What follows the last block with pages stays in the scratch until here.
    this.#append(this.#scratch.finish());
    return this.#pages;
  }

  ramSectionEnd(type: RamSectionType, footer: boolean): void {
    // The records have gone to their places, so that only the frames of the parts are left, and they say nothing. QEMU
    // writes as many as its rounds took; one is what a small stopped guest has.
    if (type === SectionType.PART) {
      if (this.#partWritten) return;
      this.#partWritten = true;
    }
    this.#endWritten = type === SectionType.END;
    this.#footers = footer;
    const writer = this.#scratch.clear();
    if (type !== SectionType.START) writer.u8(type).u32(this.#ramId);
    encodeRamPartEnd(writer, this.#ramId, footer);
    this.#append(writer.finish());
  }

  /**
   * Writes the bitmaps, then device sections, EOF and description; clears places that hold bytes of pages that became
   * zero. The file is whole when this returns, and lacks its end when it does not.
   */
  tail(tail: StreamTail, bytes: Uint8Array): void {
    // A background snapshot's stream has no END; a mapped-ram loader's has.
    if (!this.#endWritten) this.ramSectionEnd(SectionType.END, this.#footers);
    this.#pages.finish();
    for (const [index, offset] of this.#bitmapOffsets.entries()) {
      const bitmap = this.#pages.present(index)?.toBytes();
      if (offset !== undefined && bitmap !== undefined) this.#file.writeAt(bitmap, 0, bitmap.length, offset);
    }
    for (const piece of endOfStream({ tail, bytes }, this.#capabilities, this.#scratch)) this.#append(piece);
  }

  #append(bytes: Uint8Array): void {
    this.#file.writeAt(bytes, 0, bytes.length, this.#appendPosition);
    this.#appendPosition += bytes.length;
  }
}
