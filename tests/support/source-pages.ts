/**
 * Pages with known content, for sources that are threads of their own.
 *
 * @module
 */

/** Bytes of a page. */
export const SOURCE_PAGE = 4096;
/** The RAM section's number. */
export const RAM_ID = 2;

/** What the source has. */
export interface SourceData {
  /** Of the Unix socket that it listens at. */
  readonly path: string;
  readonly blocks: readonly {
    readonly name: string;
    readonly pages: number;
    /** Pages that the destination has already. */
    readonly sent?: readonly number[];
  }[];
}

/** Every fourth page is of zeros. */
export function isZeroPage(page: number): boolean {
  return page % 4 === 3;
}

/** Another content for each page of each block. */
export function sourcePage(block: string, page: number): Uint8Array {
  const words = new Uint32Array(SOURCE_PAGE / 4);
  if (isZeroPage(page)) return new Uint8Array(words.buffer);
  const seed = Math.imul(page + 1, 0x9e3779b1) ^ block.length;
  for (let index = 0; index < words.length; index++) words[index] = seed + index;
  return new Uint8Array(words.buffer);
}

/**
 * What it can be told: to send all pages of an even number; what was not sent and the end; to close the connection. It
 * resumes on the next one.
 */
export type SourceOrder = "fill-half" | "fill" | "break";
