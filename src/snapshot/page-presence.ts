import type { RandomAccessSource } from "../channels/index.js";
import { readInFull } from "../engine/read-in-full.js";
import { PageBitmap, type PageRun } from "../memory/index.js";
import { bitmapBytes, RAM_SECTION } from "../wire/index.js";
import { isHole } from "./data-ranges.js";

/** Bitmap bytes held at a time: 32 GiB of guest in pages of 4 KiB. */
const PIECE_BYTES = 1 << 20;
const PIECE_PAGES = PIECE_BYTES * 8;

/**
 * Which pages of a block have content, read from the file's bitmap piece by piece: a block of any size takes the memory
 * of one piece.
 *
 * Methods throw FormatError `truncated` when the file ends inside the bitmap.
 */
export class PagePresence {
  readonly pageCount: number;
  readonly #source: RandomAccessSource;
  readonly #block: string;
  readonly #bitmapOffset: number;
  #current: { readonly index: number; readonly pages: PageBitmap } | undefined;
  /** Stands for every piece that the file has a hole for. */
  #empty: PageBitmap | undefined;

  constructor(source: RandomAccessSource, block: string, bitmapOffset: number, pageCount: number) {
    this.#source = source;
    this.#block = block;
    this.#bitmapOffset = bitmapOffset;
    this.pageCount = pageCount;
  }

  /** The first page with content at or after `from`, or `pageCount`. */
  nextSet(from: number): number {
    return this.#next(from, (pages, page) => pages.nextSet(page));
  }

  /** The first page without content at or after `from`, or `pageCount`. */
  nextClear(from: number): number {
    return this.#next(from, (pages, page) => pages.nextClear(page));
  }

  /** Runs of pages with content that begin at or after `from` and before `to`, cut at `to`. */
  *runs(from = 0, to = this.pageCount): Generator<PageRun, void, undefined> {
    for (let start = this.nextSet(from); start < to;) {
      const end = Math.min(to, this.nextClear(start));
      yield { start, end };
      start = this.nextSet(end);
    }
  }

  /** How many pages have content, and how many bits are set past the last page. */
  count(): { readonly pages: number; readonly tailBits: number } {
    let pages = 0;
    let tailBits = 0;
    for (let first = 0; first < this.pageCount; first += PIECE_PAGES) {
      const piece = this.#piece(first / PIECE_PAGES);
      if (piece === this.#empty) continue;
      pages += piece.count();
      tailBits += piece.tailBits();
    }
    return { pages, tailBits };
  }

  #next(from: number, next: (pages: PageBitmap, page: number) => number): number {
    for (let page = from; page < this.pageCount;) {
      const index = Math.floor(page / PIECE_PAGES);
      const first = index * PIECE_PAGES;
      const pages = this.#piece(index);
      const found = next(pages, page - first);
      if (found < pages.pageCount) return first + found;
      page = first + pages.pageCount;
    }
    return this.pageCount;
  }

  #piece(index: number): PageBitmap {
    if (this.#current?.index === index) return this.#current.pages;
    const pages = this.#readPiece(index);
    this.#current = { index, pages };
    return pages;
  }

  #readPiece(index: number): PageBitmap {
    const offset = this.#bitmapOffset + index * PIECE_BYTES;
    const pageCount = Math.min(PIECE_PAGES, this.pageCount - index * PIECE_PAGES);
    // Asking costs more than reading, but for bitmaps that are mostly absent.
    if (pageCount === PIECE_PAGES && isHole(this.#source, offset, offset + PIECE_BYTES)) {
      return (this.#empty ??= new PageBitmap(PIECE_PAGES));
    }
    const bytes = new Uint8Array(bitmapBytes(pageCount));
    readInFull(this.#source, bytes, offset, "The file ends inside a bitmap", {
      section: RAM_SECTION.name,
      block: this.#block,
    });
    return PageBitmap.fromBytes(pageCount, bytes);
  }
}
