import { describe, expect, it } from "vitest";

import type { PositionedFile } from "../../../src/engine/mapped-ram/positioned-file.js";
import { WriteCombiner } from "../../../src/engine/mapped-ram/write-combiner.js";

const PAGE = 4096;
const PIECE = 256 << 10;

/** A file in memory that notes its writes. */
class NotedFile {
  readonly bytes: Uint8Array;
  readonly writes: { readonly position: number; readonly length: number }[] = [];

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
  }

  /** Only what the combiner calls. */
  get asFile(): PositionedFile {
    return {
      writeAt: (bytes: Uint8Array, at: number, length: number, position: number) => {
        this.bytes.set(bytes.subarray(at, at + length), position);
        this.writes.push({ position, length });
      },
    } as unknown as PositionedFile;
  }
}

/** Puts so many pages from a position on, each with bytes of its own. */
function putPages(combiner: WriteCombiner, file: PositionedFile, position: number, count: number): void {
  for (let page = 0; page < count; page++) {
    const place = position + page * PAGE;
    combiner.put(file, place, new Uint8Array(PAGE).fill(1 + ((place / PAGE) % 250)), 0, PAGE);
  }
}

describe("WriteCombiner", () => {
  it("writes up to multiples of 256 KiB, wherever the pages begin", () => {
    const noted = new NotedFile(3 * PIECE);
    const file = noted.asFile;
    const combiner = new WriteCombiner();
    putPages(combiner, file, PAGE, 2 * 64);
    combiner.flush();
    expect(noted.writes).toEqual([
      { position: PAGE, length: PIECE - PAGE },
      { position: PIECE, length: PIECE },
      { position: 2 * PIECE, length: PAGE },
    ]);
    for (let page = 1; page <= 2 * 64; page++) expect(noted.bytes[page * PAGE]).toBe(1 + (page % 250));
  });

  it("takes a page that lies across such a place, and writes in the order of the puts", () => {
    const noted = new NotedFile(2 * PIECE);
    const file = noted.asFile;
    const combiner = new WriteCombiner();
    const across = PIECE - PAGE / 2;
    combiner.put(file, across, new Uint8Array(PAGE).fill(7), 0, PAGE);
    combiner.put(file, across + PAGE, new Uint8Array(PAGE).fill(8), 0, PAGE);
    combiner.put(file, across, new Uint8Array(PAGE).fill(9), 0, PAGE);
    combiner.flush();
    expect(noted.bytes[across - 1]).toBe(0);
    expect(noted.bytes.subarray(across, across + PAGE).every((byte) => byte === 9)).toBe(true);
    expect(noted.bytes.subarray(across + PAGE, across + 2 * PAGE).every((byte) => byte === 8)).toBe(true);
  });
});
