import { FormatError } from "../../errors/index.js";
import type { RamBlockEntry, RamRecordSink, SectionHeader } from "../../wire/index.js";
import type { MigrationTarget } from "../migration-target.js";

/** Pages whose places are kept in one piece: pieces without any page with content are never allocated. */
const PAGES_PER_PIECE = 1 << 15;

/** How often each kind of RAM record came; a page that came twice counts twice. */
export interface RecordCounts {
  page: number;
  zero: number;
}

/** Where the pages of one block are in a stream. */
export class PagePlaces {
  readonly entry: RamBlockEntry;
  readonly pageCount: number;
  /** Whether any record of this block came: a shared block that the source left out has none. */
  seen = false;
  readonly #pieces: (Float64Array | undefined)[];

  constructor(entry: RamBlockEntry, pageSize: number) {
    this.entry = entry;
    this.pageCount = entry.usedLength / pageSize;
    this.#pieces = new Array<Float64Array | undefined>(Math.ceil(this.pageCount / PAGES_PER_PIECE)).fill(
      undefined,
    );
  }

  /** Offset of the page's last content in the stream, or 0 for a page without any: offset 0 is the stream's magic. */
  get(page: number): number {
    return this.#pieces[Math.floor(page / PAGES_PER_PIECE)]?.[page % PAGES_PER_PIECE] ?? 0;
  }

  set(page: number, offset: number): void {
    const index = Math.floor(page / PAGES_PER_PIECE);
    let piece = this.#pieces[index];
    if (piece === undefined) {
      if (offset === 0) return;
      piece = this.#pieces[index] = new Float64Array(PAGES_PER_PIECE);
    }
    piece[page % PAGES_PER_PIECE] = offset;
  }

  /** Runs of pages with content, in order, between `from` and `to`. */
  *runs(from = 0, to = this.pageCount): Generator<{ readonly start: number; readonly end: number }> {
    for (let page = from; page < to;) {
      const piece = this.#pieces[Math.floor(page / PAGES_PER_PIECE)];
      if (piece === undefined) page = (Math.floor(page / PAGES_PER_PIECE) + 1) * PAGES_PER_PIECE;
      else if (this.get(page) === 0) page += 1;
      else {
        const start = page;
        while (page < to && this.get(page) !== 0) page += 1;
        yield { start, end: page };
      }
    }
  }
}

/**
 * Notes where in a stream each page's last content is, so that pages can be read at any place later. Takes 8 bytes for each
 * page of regions that have content.
 *
 * Its methods throw UnindexableError for records whose content is not in the stream as it is.
 */
export class PageIndex implements MigrationTarget, RamRecordSink {
  readonly counts: RecordCounts = { page: 0, zero: 0 };
  blocks: readonly PagePlaces[] = [];
  #pageSize = 0;

  configuration(): void {
    // Pages only: the rest is StreamFacts'.
  }

  verbatim(): void {
    // As above.
  }

  ramStart(_header: SectionHeader, blocks: readonly RamBlockEntry[], pageSize: number): RamRecordSink {
    this.#pageSize = pageSize;
    this.blocks = blocks.map((entry) => new PagePlaces(entry, pageSize));
    return this;
  }

  ramSectionEnd(): void {
    // As above.
  }

  tail(): void {
    // As above.
  }

  page(block: number, address: number, _bytes: Uint8Array, _at: number, offset?: number): void {
    if (offset === undefined) throw new UnindexableError();
    this.counts.page += 1;
    this.#note(block, address, offset);
  }

  zeroPage(block: number, address: number): void {
    this.counts.zero += 1;
    this.#note(block, address, 0);
  }

  xbzrlePage(): void {
    throw new UnindexableError();
  }

  compressedPage(): void {
    throw new UnindexableError();
  }

  #note(block: number, address: number, offset: number): void {
    const places = this.blocks[block];
    if (places === undefined) return;
    places.seen = true;
    places.set(address / this.#pageSize, offset);
  }
}

/** A page's content is not in the stream as it is: it has to be put together by receiving the whole stream. */
export class UnindexableError extends FormatError {
  constructor() {
    super("unsupported", "The stream holds pages as differences or compressed");
  }
}
