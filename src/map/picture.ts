import { allPages, type Captions, count, DRAWN_BLOCKS, share, size } from "./captions.js";
import { printable } from "../errors/index.js";
import type { CellGrid } from "./cell-grid.js";
import type { MapBlock, MapNumbers, MemoryMap } from "./memory-map.js";

/** A piece of a picture that does not move. Lengths are units: pixels of an SVG. */
export type Shape =
  | {
      readonly shape: "rect";
      readonly x: number;
      readonly y: number;
      readonly width: number;
      readonly height: number;
      /** Index among the map's kinds, and of the shade. */
      readonly kind: number;
      readonly shade: number;
      /** What it is, for who points at it. */
      readonly title?: string;
    }
  | {
      readonly shape: "text";
      readonly x: number;
      /** Of the base line. */
      readonly y: number;
      readonly text: string;
      readonly role: "title" | "heading" | "body" | "quiet";
    };

/** A picture with a fixed layout, for formats without a script: SVG and PNG. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly shapes: Iterable<Shape>;
}

const WIDTH = 1120;
const MARGIN = 40;
const INNER = WIDTH - 2 * MARGIN;
const GUTTER = 104;
const CELL = 4;
const COLUMNS = 224;
/** Blocks of so few cells have larger ones. */
const SMALL_CELLS = 160;
const SMALL_CELL = 12;
const SMALL_CELL_COLUMNS = 24;
const SMALL_COLUMNS = 3;
const RULER_STEP = 24;
const LEGEND_COLUMNS = 2;
/** A letter of body text is at most so wide in both formats. */
const LETTER = 7.3;
const SOLID = 3;

/** Lays a map out. */
export function layOut(map: MemoryMap, numbers: MapNumbers, captions: Captions): Picture {
  const head = layOutHead(map, numbers, captions);
  const blocks: Shape[] = [];
  const cells: (() => Iterable<Shape>)[] = [];
  let y = head.bottom;
  let column = 0;
  let rowBottom = y;
  for (const [index, block] of map.blocks.slice(0, DRAWN_BLOCKS).entries()) {
    // Blocks with few cells stand side by side.
    const isSmall = (block.cells?.cellCount ?? 0) <= SMALL_CELLS;
    column = isSmall && column > 0 && column < SMALL_COLUMNS ? column : 0;
    if (column === 0) y = rowBottom + 36;
    const left = MARGIN + (column * INNER) / SMALL_COLUMNS;
    const room = isSmall ? INNER / SMALL_COLUMNS - 16 : INNER;
    const facts = blockFacts(block, numbers.blocks[index]?.kinds ?? {}, map);
    blocks.push({ shape: "text", x: left, y, text: fit(printable(block.name), room), role: "heading" });
    blocks.push({ shape: "text", x: left, y: y + 17, text: fit(facts, room), role: "quiet" });
    rowBottom = Math.max(rowBottom, y + 17);
    if (block.cells !== undefined) {
      const strip = isSmall ? smallStrip(block.cells, left, y + 27) : largeStrip(block.cells, y + 27);
      if (!isSmall) blocks.push(...rulerOf(block, strip));
      cells.push(() => paintCells(map, block, strip));
      rowBottom = Math.max(rowBottom, strip.bottom);
    }
    column = isSmall ? column + 1 : 0;
  }
  function* shapes(): Generator<Shape, void, undefined> {
    yield* head.shapes;
    yield* blocks;
    for (const paint of cells) yield* paint();
  }
  return { width: WIDTH, height: Math.ceil(rowBottom + MARGIN), shapes: shapes() };
}

function layOutHead(
  map: MemoryMap,
  numbers: MapNumbers,
  captions: Captions,
): { readonly shapes: readonly Shape[]; readonly bottom: number } {
  const shapes: Shape[] = [];
  const write = (y: number, text: string, role: "title" | "body" | "quiet", x = MARGIN): void => {
    shapes.push({ shape: "text", x, y, text: fit(text, WIDTH - MARGIN - x), role });
  };
  let y = MARGIN + 6;
  write(y, captions.subject, "quiet");
  write((y += 30), printable(captions.title, 60), "title");
  y += 6;
  for (const [name, text] of captions.facts) {
    y += 18;
    write(y, name, "quiet");
    write(y, text, "body", MARGIN + 64);
  }
  y += 20;
  const total = allPages(numbers.kinds);
  let x = MARGIN;
  for (const [kind, { id }] of map.kinds.entries()) {
    const pages = numbers.kinds[id]?.pages ?? 0;
    const width = total === 0 ? 0 : (pages / total) * INNER;
    if (pages > 0) shapes.push({ shape: "rect", x, y, width, height: 16, kind, shade: SOLID });
    x += width;
  }
  y += 16;
  const columnWidth = INNER / LEGEND_COLUMNS;
  for (const [kind, { id, label, meaning }] of map.kinds.entries()) {
    const left = MARGIN + (kind % LEGEND_COLUMNS) * columnWidth;
    if (kind % LEGEND_COLUMNS === 0) y += 40;
    const { pages, bytes } = numbers.kinds[id] ?? { pages: 0, bytes: 0 };
    shapes.push({ shape: "rect", x: left, y: y - 12, width: 14, height: 14, kind, shade: SOLID });
    const figures = `${count(pages)} ${pages === 1 ? "page" : "pages"}, ${size(bytes)}, ${share(pages, total)}`;
    write(y, `${label}: ${figures}`, "body", left + 24);
    write(y + 16, meaning, "quiet", left + 24);
  }
  y += 20;
  for (const line of [captions.howToRead, ...captions.notes]) write((y += 18), line, "quiet");
  return { shapes, bottom: y + 6 };
}

function blockFacts(
  block: MapBlock,
  kinds: Readonly<Record<string, { readonly pages: number }>>,
  map: MemoryMap,
): string {
  const { cells, pageSize, guestAddress } = block;
  if (cells === undefined) return "left out of the file: it is shared memory";
  const at = guestAddress === undefined ? "" : `, guest address 0x${guestAddress.toString(16)}`;
  const parts = map.kinds
    .map(({ id, label }) => ({ label, pages: kinds[id]?.pages ?? 0 }))
    .filter(({ pages }) => pages > 0)
    .map(({ label, pages }) => `${label.toLowerCase()} ${count(pages)}`);
  return `${size(cells.pageCount * pageSize)}${at}: ${parts.join(", ")}`;
}

interface Strip {
  readonly left: number;
  readonly top: number;
  readonly bottom: number;
  readonly cell: number;
  readonly gap: number;
  readonly columns: number;
  readonly rows: number;
}

function largeStrip(cells: CellGrid, top: number): Strip {
  const rows = Math.ceil(cells.cellCount / COLUMNS);
  const bottom = top + rows * CELL;
  return { left: MARGIN + GUTTER, top, bottom, cell: CELL, gap: 0, columns: COLUMNS, rows };
}

function smallStrip(cells: CellGrid, left: number, top: number): Strip {
  const columns = SMALL_CELL_COLUMNS;
  const rows = Math.ceil(cells.cellCount / columns);
  return { left, top, bottom: top + rows * SMALL_CELL, cell: SMALL_CELL, gap: 1, columns, rows };
}

/** Offsets of some rows, beside them. */
function rulerOf({ pageSize, cells }: MapBlock, { top, cell, columns, rows }: Strip): Shape[] {
  const step = RULER_STEP / cell;
  const labels: Shape[] = [];
  for (let row = 0; row < rows; row += step) {
    const offset = row * columns * (cells?.cellPages ?? 1) * pageSize;
    labels.push({
      shape: "text",
      x: MARGIN,
      y: top + row * cell + 10,
      text: `0x${offset.toString(16)}`,
      role: "quiet",
    });
  }
  return labels;
}

/** Neighbours in a row that look the same are one rectangle. */
function* paintCells(map: MemoryMap, block: MapBlock, strip: Strip): Generator<Shape, void, undefined> {
  const { cells } = block;
  if (cells === undefined) return;
  const { left, top, cell, gap, columns } = strip;
  for (let first = 0; first < cells.cellCount;) {
    const paint = cells.paint(first, map.kinds);
    const row = Math.floor(first / columns);
    const rowEnd = Math.min(cells.cellCount, (row + 1) * columns);
    let end = first + 1;
    for (; gap === 0 && end < rowEnd; end++) {
      const next = cells.paint(end, map.kinds);
      if (next.kind !== paint.kind || next.shade !== paint.shade) break;
    }
    yield {
      shape: "rect",
      x: left + (first - row * columns) * cell,
      y: top + row * cell,
      width: (end - first) * cell - gap,
      height: cell - gap,
      ...paint,
      title: describeCells(map, block, first, end),
    };
    first = end;
  }
}

/** What cells `first` up to, not including, `end` are, for who points at them. */
export function describeCells(map: MemoryMap, block: MapBlock, first: number, end: number): string {
  const { cells, pageSize, guestAddress, name } = block;
  if (cells === undefined) return printable(name);
  const from = first * cells.cellPages * pageSize;
  const to = Math.min(cells.pageCount, end * cells.cellPages) * pageSize - 1;
  const guest =
    guestAddress === undefined
      ? ""
      : `, guest ${hex(guestAddress + BigInt(from))} to ${hex(guestAddress + BigInt(to))}`;
  const parts = map.kinds.flatMap(({ label }, kind) => {
    let pages = 0;
    for (let cell = first; cell < end; cell++) pages += cells.count(cell, kind);
    return pages === 0 ? [] : [`${count(pages)} ${label.toLowerCase()}`];
  });
  return `${printable(name)} ${hex(from)} to ${hex(to)}${guest}: ${parts.join(", ")}`;
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** Cuts a text that would run out of the picture. */
function fit(text: string, width: number): string {
  const letters = Math.floor(width / LETTER);
  return text.length <= letters ? text : `${text.slice(0, letters - 3)}...`;
}
