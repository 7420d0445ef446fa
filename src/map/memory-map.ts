import type { PageScanner } from "../kernels/index.js";
import { PAGE_CLASSES, PageClassifier, type PageRun } from "../memory/index.js";
import {
  assertComparable,
  comparePages,
  pageWindows,
  pairBlocks,
  type PageChange,
  type Snapshot,
  type SnapshotBlock,
  WalkPace,
  type WalkOptions,
} from "../snapshot/index.js";
import { WindowScanners } from "../snapshot/window-scanners.js";
import { CellGrid } from "./cell-grid.js";
import { DIFFERENCE_KINDS, type MapKind, type MapKindId, MEMORY_KINDS } from "./kinds.js";
import { type CountedPage, RepeatedPages } from "./repeated-pages.js";

/** How a map is made. */
export interface MapOptions extends WalkOptions {
  /** The most cells of all blocks together, though each has one at least; 73,728 when not given. */
  readonly maxCells?: number;
}

/** A block of a {@link MemoryMap}. */
export interface MapBlock {
  /** Raw: may hold any character. */
  readonly name: string;
  /** Bytes. */
  readonly pageSize: number;
  /** Where the guest sees its first page, where the file says it. */
  readonly guestAddress?: bigint;
  /** Undefined for memory that is in no file: it was left out. */
  readonly cells: CellGrid | undefined;
}

/** A snapshot that a map was made of. */
export interface MappedSnapshot {
  readonly container: Snapshot["container"];
  readonly format: Snapshot["format"];
  readonly machine: string;
  readonly domain?: string;
  readonly totalBytes: number;
  readonly fileBytes: number;
}

/** What the pages of a guest are, or what became of them: the numbers behind a picture. */
export interface MemoryMap {
  readonly subject: "memory" | "difference" | "working-set";
  /** One, or A and B. */
  readonly snapshots: readonly MappedSnapshot[];
  readonly kinds: readonly (MapKind & { readonly id: MapKindId })[];
  /** Pages of a cell. */
  readonly cellPages: number;
  /** Bytes. */
  readonly targetPageSize: number;
  readonly blocks: readonly MapBlock[];
  /**
   * For memory: how many contents the repeated pages have. Null where repetitions were not looked for, since the guest has
   * more than 2^25 pages with content: then no page is counted as repeated.
   */
  readonly repeatedContents?: number | null;
}

/** 64 Ki, and room for the ROMs beside a guest's RAM of a power of two: else its cells would have two pages. */
const DEFAULT_MAX_CELLS = 65_536 + 8192;

/**
 * Says of every page of a snapshot what it looks like. Reads all pages with content once.
 *
 * @throws What reading the snapshot does; CancelledError.
 */
export async function mapMemory(snapshot: Snapshot, options: MapOptions = {}): Promise<MemoryMap> {
  const { blocks } = snapshot;
  const kinds = MEMORY_KINDS;
  const cellPages = cellPagesFor(
    blocks.map(({ pageCount }) => pageCount),
    options.maxCells,
  );
  const grids = blocks.map(({ leftOut, pageCount }) =>
    leftOut ? undefined : new CellGrid(pageCount, cellPages, kinds.length),
  );
  const present = blocks.reduce((sum, block) => sum + snapshot.countPresent(block), 0);
  const repeated = present > RepeatedPages.LIMIT ? undefined : new RepeatedPages(present);
  const counter = new PageCounter(grids, repeated);
  const pace = new WalkPace("mapping", snapshot.totalBytes, options);
  for (const block of blocks) {
    if (!block.leftOut) await counter.countBlock(snapshot, block, pace);
    pace.endBlock(block.usedLength);
  }
  return {
    subject: "memory",
    snapshots: [describe(snapshot)],
    kinds,
    cellPages,
    targetPageSize: snapshot.targetPageSize,
    blocks: blocks.map((block, index) => mapBlock(block, grids[index])),
    repeatedContents: repeated?.contents ?? null,
  };
}

/**
 * Says of every page what became of it between two snapshots.
 *
 * @throws UsageError when they cannot be compared; what reading them does; CancelledError.
 */
export async function mapDifference(a: Snapshot, b: Snapshot, options: MapOptions = {}): Promise<MemoryMap> {
  assertComparable(a, b);
  const { common, onlyInOne, leftOut } = pairBlocks(a, b);
  const blockIn = (snapshot: Snapshot, name: string): SnapshotBlock | undefined =>
    snapshot.blocks.find((block) => block.name === name);
  const alone = onlyInOne.flatMap(({ name, onlyIn }) => {
    const block = blockIn(onlyIn === "a" ? a : b, name);
    return block === undefined ? [] : [{ block, kind: kindOf(onlyIn === "a" ? "only-in-a" : "only-in-b") }];
  });
  const cellPages = cellPagesFor(
    [
      ...common.map((pair) => Math.max(pair.a.pageCount, pair.b.pageCount)),
      ...alone.map(({ block }) => block.pageCount),
    ],
    options.maxCells,
  );
  const blocks: MapBlock[] = [];
  const scanners = new WindowScanners(2);
  const commonBytes = common.reduce((sum, pair) => sum + pair.commonPages * pair.a.pageSize, 0);
  const pace = new WalkPace("comparing", commonBytes, options);
  for (const pair of common) {
    const pages = Math.max(pair.a.pageCount, pair.b.pageCount);
    const cells = new CellGrid(pages, cellPages, DIFFERENCE_KINDS.length);
    const sides = [
      { snapshot: a, block: pair.a },
      { snapshot: b, block: pair.b },
    ] as const;
    for await (const runs of comparePages(sides[0], sides[1], pair.commonPages, pace, scanners)) {
      for (const { start, end, change } of runs) cells.add(kindOf(change), start, end);
    }
    const longer = pair.a.pageCount > pair.b.pageCount ? "only-in-a" : "only-in-b";
    cells.add(kindOf(longer), pair.commonPages, pages);
    pace.endBlock(pair.commonPages * pair.a.pageSize);
    blocks.push(mapBlock(pair.a, cells));
  }
  for (const { block, kind } of alone) {
    const cells = new CellGrid(block.pageCount, cellPages, DIFFERENCE_KINDS.length);
    cells.fillUp(kind);
    blocks.push(mapBlock(block, cells));
  }
  for (const { name } of leftOut) {
    const block = blockIn(a, name);
    if (block !== undefined) blocks.push(mapBlock(block, undefined));
  }
  return {
    subject: "difference",
    snapshots: [describe(a), describe(b)],
    kinds: DIFFERENCE_KINDS,
    cellPages,
    targetPageSize: a.targetPageSize,
    blocks,
  };
}

/** Pages and bytes of one kind. */
export interface KindNumbers {
  readonly pages: number;
  readonly bytes: number;
}

/** The numbers of a map, ready for JSON. */
export interface MapNumbers {
  readonly subject: MemoryMap["subject"];
  readonly snapshots: readonly MappedSnapshot[];
  readonly targetPageSize: number;
  readonly cellPages: number;
  readonly repeatedContents?: number | null;
  /** By {@link MapKind.id}; every page counts once. */
  readonly kinds: Readonly<Record<string, KindNumbers>>;
  readonly blocks: readonly {
    readonly name: string;
    readonly pageSize: number;
    /** In hexadecimal. */
    readonly guestAddress?: string;
    readonly leftOut?: true;
    readonly pages: number;
    readonly cells: number;
    readonly kinds: Readonly<Record<string, KindNumbers>>;
  }[];
}

/** Adds up what a map counts. */
export function mapNumbers(map: MemoryMap): MapNumbers {
  const { subject, snapshots, kinds, cellPages, targetPageSize, repeatedContents } = map;
  const sums = kinds.map(() => ({ pages: 0, bytes: 0 }));
  const byId = (numbers: readonly KindNumbers[]): Record<string, KindNumbers> =>
    Object.fromEntries(kinds.map(({ id }, kind) => [id, numbers[kind] ?? { pages: 0, bytes: 0 }]));
  const blocks = map.blocks.map(({ name, pageSize, guestAddress, cells }) => {
    const totals = cells?.totals() ?? kinds.map(() => 0);
    const numbers = totals.map((pages) => ({ pages, bytes: pages * pageSize }));
    for (const [kind, { pages, bytes }] of numbers.entries()) {
      const sum = sums[kind];
      if (sum === undefined) continue;
      sum.pages += pages;
      sum.bytes += bytes;
    }
    return {
      name,
      pageSize,
      ...(guestAddress === undefined ? {} : { guestAddress: `0x${guestAddress.toString(16)}` }),
      ...(cells === undefined ? { leftOut: true as const } : {}),
      pages: cells?.pageCount ?? 0,
      cells: cells?.cellCount ?? 0,
      kinds: byId(numbers),
    };
  });
  return {
    subject,
    snapshots,
    targetPageSize,
    cellPages,
    ...(repeatedContents === undefined ? {} : { repeatedContents }),
    kinds: byId(sums),
    blocks,
  };
}

/** Classifies the pages of one block after the other. */
class PageCounter {
  readonly #grids: readonly (CellGrid | undefined)[];
  readonly #firstCells: readonly number[];
  readonly #repeated: RepeatedPages | undefined;
  readonly #scanners = new WindowScanners(1, (pageSize) => new PageClassifier(pageSize));

  constructor(grids: readonly (CellGrid | undefined)[], repeated: RepeatedPages | undefined) {
    this.#grids = grids;
    this.#repeated = repeated;
    let cells = 0;
    this.#firstCells = grids.map((grid) => (cells += grid?.cellCount ?? 0) - (grid?.cellCount ?? 0));
  }

  async countBlock(snapshot: Snapshot, block: SnapshotBlock, pace: WalkPace): Promise<void> {
    const grid = this.#grids[block.index];
    if (grid === undefined) return;
    const { pageSize, pageCount } = block;
    const scanner = this.#scanners.for(pageSize);
    const sides = [{ snapshot, block }];
    for await (const { start, end, contents } of pageWindows(sides, pageCount, pace, scanner.areas)) {
      if (contents[0] === undefined) continue;
      const classes = scanner.classify(0, end - start);
      for (let index = 0; index < classes.length; index++) {
        if (classes[index] === ZERO) continue;
        const first = index;
        while (index < classes.length && classes[index] !== ZERO) index += 1;
        this.#countRun(grid, block.index, start, scanner, classes, { start: first, end: index });
      }
    }
    grid.fillUp(ZERO);
  }

  /**
   * Counts pages with content that follow each other.
   *
   * @param windowStart Page at the start of the scanner's area.
   * @param run Pages in the area.
   */
  #countRun(
    grid: CellGrid,
    block: number,
    windowStart: number,
    scanner: PageScanner,
    classes: Uint8Array,
    run: PageRun,
  ): void {
    const hashes = this.#repeated && scanner.xxh64(0, run.start, run.end, 0n);
    for (let index = run.start; index < run.end; index++) {
      const page = windowStart + index;
      const kind = classes[index] ?? ZERO;
      const cell = (this.#firstCells[block] ?? 0) + Math.floor(page / grid.cellPages);
      const isRepeated = this.#repeated?.add(
        hashes?.[2 * index] ?? 0,
        hashes?.[2 * index + 1] ?? 0,
        cell,
        kind,
        this.#moveToRepeated,
      );
      grid.add(isRepeated === true ? REPEATED : kind, page, page + 1);
    }
  }

  readonly #moveToRepeated = (first: CountedPage): void => {
    const owner = this.#firstCells.findLastIndex((start, index) => {
      return start <= first.cell && this.#grids[index] !== undefined;
    });
    this.#grids[owner]?.move(first.cell - (this.#firstCells[owner] ?? 0), first.kind, REPEATED);
  };
}

// The first of the kinds are the classes of pages, in their order.
const ZERO = PAGE_CLASSES.indexOf("zero");
const REPEATED = PAGE_CLASSES.length;

function kindOf(change: PageChange | "only-in-a" | "only-in-b"): number {
  return DIFFERENCE_KINDS.findIndex(({ id }) => id === change);
}

/** The smallest power of two that makes cells few enough. */
export function cellPagesFor(pageCounts: readonly number[], maxCells = DEFAULT_MAX_CELLS): number {
  const cells = (pages: number): number =>
    pageCounts.reduce((sum, pageCount) => sum + Math.ceil(pageCount / pages), 0);
  let cellPages = 1;
  // Every block has a cell at least, however large cells are.
  while (cells(cellPages) > Math.max(maxCells, pageCounts.length)) cellPages *= 2;
  return cellPages;
}

/** A block of a map; what it says of itself, and its cells. */
export function mapBlock(
  { name, pageSize, guestAddress }: SnapshotBlock,
  cells: CellGrid | undefined,
): MapBlock {
  return { name, pageSize, ...(guestAddress === undefined ? {} : { guestAddress }), cells };
}

/** What a map says of the snapshot it is of. */
export function describe({
  container,
  format,
  configuration,
  libvirt,
  totalBytes,
  fileBytes,
}: Snapshot): MappedSnapshot {
  const domain = libvirt?.domain;
  return {
    container,
    format,
    machine: configuration.machine,
    ...(domain === undefined ? {} : { domain }),
    totalBytes,
    fileBytes,
  };
}
