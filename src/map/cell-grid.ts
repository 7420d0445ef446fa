import { type MapKind, SHADES } from "./kinds.js";

/** How a cell is painted. */
export interface CellPaint {
  /** Index among the map's kinds. */
  readonly kind: number;
  /** Index in {@link SHADES}. */
  readonly shade: number;
}

/** The pages of one block in groups of equal size, and how many of each kind are in each group. */
export class CellGrid {
  readonly pageCount: number;
  /** Pages in a cell; the last one may have fewer. */
  readonly cellPages: number;
  readonly cellCount: number;
  readonly #kinds: number;
  readonly #counts: Uint32Array;

  constructor(pageCount: number, cellPages: number, kinds: number) {
    this.pageCount = pageCount;
    this.cellPages = cellPages;
    this.cellCount = Math.ceil(pageCount / cellPages);
    this.#kinds = kinds;
    this.#counts = new Uint32Array(this.cellCount * kinds);
  }

  /** Adds pages `start` up to, not including, `end`. */
  add(kind: number, start: number, end: number): void {
    for (let page = start; page < end;) {
      const cell = Math.floor(page / this.cellPages);
      const stop = Math.min(end, (cell + 1) * this.cellPages);
      this.#change(cell, kind, stop - page);
      page = stop;
    }
  }

  /** Says that a page of a cell is of another kind than was said. */
  move(cell: number, from: number, to: number): void {
    this.#change(cell, from, -1);
    this.#change(cell, to, 1);
  }

  /** Counts every page that was not added as being of this kind. */
  fillUp(kind: number): void {
    for (let cell = 0; cell < this.cellCount; cell++) {
      let known = 0;
      for (let index = 0; index < this.#kinds; index++) known += this.count(cell, index);
      this.#change(cell, kind, this.pagesOf(cell) - known);
    }
  }

  /** Pages of a kind in a cell. */
  count(cell: number, kind: number): number {
    return this.#counts[cell * this.#kinds + kind] ?? 0;
  }

  /** Pages of a cell. */
  pagesOf(cell: number): number {
    return Math.min(this.cellPages, this.pageCount - cell * this.cellPages);
  }

  /** Pages of each kind in the whole block. */
  totals(): number[] {
    const totals = new Array<number>(this.#kinds).fill(0);
    for (let index = 0; index < this.#counts.length; index++) {
      const kind = index % this.#kinds;
      totals[kind] = (totals[kind] ?? 0) + (this.#counts[index] ?? 0);
    }
    return totals;
  }

  /** The colour is that of the most frequent among the loudest kinds; the shade says how many pages are that loud. */
  paint(cell: number, kinds: readonly MapKind[]): CellPaint {
    let loudness = 0;
    let best = 0;
    let loud = 0;
    for (const [index, kind] of kinds.entries()) {
      const count = this.count(cell, index);
      if (count === 0 || kind.loudness < loudness) continue;
      if (kind.loudness > loudness) [loudness, best, loud] = [kind.loudness, index, 0];
      loud += count;
      if (count > this.count(cell, best)) best = index;
    }
    const share = loudness === 0 ? 1 : loud / this.pagesOf(cell);
    return { kind: best, shade: Math.max(0, Math.ceil(share * SHADES.length) - 1) };
  }

  #change(cell: number, kind: number, by: number): void {
    const index = cell * this.#kinds + kind;
    this.#counts[index] = (this.#counts[index] ?? 0) + by;
  }
}
