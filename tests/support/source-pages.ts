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
  /** It connects there instead, once it is told to. */
  readonly connects?: boolean;
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
 * What it can be told: to send all pages of an even number; what was not sent, and the end; to close the connection, or to do
 * so when it is asked for a page and to come back then. It resumes on each connection but the first.
 */
export type SourceOrder = "connect" | "fill-half" | "fill" | "break" | "break-when-asked";
