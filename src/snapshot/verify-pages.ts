import type { RandomAccessSource } from "../channels/index.js";
import { readInFull } from "../engine/read-in-full.js";
import { FormatError } from "../errors/index.js";
import { PageBitmap, type PageRun } from "../memory/index.js";
import { RAM_SECTION } from "../wire/index.js";
import { dataRanges } from "./data-ranges.js";
import { PagePresence } from "./page-presence.js";
import { WINDOW_BYTES, type WalkPace } from "./page-windows.js";
import type { ProblemList } from "./verify-problems.js";
import { WindowScanners } from "./window-scanners.js";

/** A mapped-ram block whose places are known to be sound. */
export interface CheckableBlock {
  readonly name: string;
  readonly usedLength: number;
  readonly pageSize: number;
  readonly bitmapOffset: number;
  readonly pagesOffset: number;
}

/** Pages of a block, as they are in the file. */
export interface CheckedPages {
  readonly total: number;
  readonly normal: number;
  readonly zero: number;
  /** Zero pages whose place holds other bytes. */
  readonly stale: number;
}

/** Checks bitmaps and page areas of one file, block after block, each read into the same memory. */
export class PageChecker {
  readonly #source: RandomAccessSource;
  readonly #problems: ProblemList;
  readonly #pace: WalkPace;
  readonly #scanners = new WindowScanners(1);

  constructor(source: RandomAccessSource, problems: ProblemList, pace: WalkPace) {
    this.#source = source;
    this.#problems = problems;
    this.#pace = pace;
  }

  /**
   * Checks a block: bits past the last page, bytes under clear bits, holes under set ones. Only what the file system holds
   * data for is read, and of that only windows with clear bits.
   */
  async check(block: CheckableBlock): Promise<CheckedPages> {
    const total = block.usedLength / block.pageSize;
    const presence = new PagePresence(this.#source, block.name, block.bitmapOffset, total);
    const { pages: normal, tailBits } = presence.count();
    const place = { offset: block.bitmapOffset, section: RAM_SECTION.name, block: block.name };
    if (tailBits > 0) {
      const message = "A bitmap has bits set past its last page";
      this.#problems.add(
        new FormatError("malformed", message, { ...place, expected: 0, actual: tailBits }),
        "tail-bits",
      );
    }
    const stale = await this.#walk(block, presence);
    this.#report(block, "stale-pages", stale, "Places of zero pages hold old bytes");
    return { total, normal, zero: total - normal, stale: stale.count };
  }

  async #walk(block: CheckableBlock, presence: PagePresence): Promise<Finding> {
    const { pagesOffset, usedLength, pageSize } = block;
    const stale = new Finding();
    const inHoles = new Finding();
    let nextPage = 0;
    for (const range of dataRanges(this.#source, pagesOffset, pagesOffset + usedLength)) {
      // A page larger than the file system's blocks can lie in two ranges: it is looked at once.
      const from = Math.max(nextPage, Math.floor((range.start - pagesOffset) / pageSize));
      const to = Math.ceil((range.end - pagesOffset) / pageSize);
      for (const run of presence.runs(nextPage, from)) inHoles.add(run);
      await this.#checkZeroPages(block, presence, { start: from, end: to }, stale);
      nextPage = Math.max(nextPage, to);
      await this.#pace.rest(nextPage * pageSize);
    }
    for (const run of presence.runs(nextPage)) inHoles.add(run);
    this.#report(
      block,
      "hole-pages",
      inHoles,
      "Pages are marked as having content and lie in a hole of the file",
    );
    return stale;
  }

  /** Looks for bytes that are not zero under clear bits. */
  async #checkZeroPages(
    block: CheckableBlock,
    presence: PagePresence,
    range: PageRun,
    stale: Finding,
  ): Promise<void> {
    const { pageSize, pagesOffset } = block;
    const windowPages = WINDOW_BYTES / pageSize;
    const scanner = this.#scanners.for(pageSize);
    for (let first = presence.nextClear(range.start); first < range.end;) {
      const clear = clearRuns(presence, first, Math.min(range.end, first + windowPages));
      const end = clear.at(-1)?.end ?? first;
      const count = end - first;
      this.#read(block, scanner.area(0, count), pagesOffset + first * pageSize);
      const content = PageBitmap.fromBytes(count, scanner.findContent(0, count));
      for (const run of clear) addContent(content, run, first, stale);
      await this.#pace.rest(end * pageSize);
      first = presence.nextClear(end);
    }
  }

  #read(block: CheckableBlock, target: Uint8Array, position: number): void {
    readInFull(this.#source, target, position, "The file ends inside a block's pages", {
      section: RAM_SECTION.name,
      block: block.name,
    });
  }

  #report(
    block: CheckableBlock,
    code: "stale-pages" | "hole-pages",
    finding: Finding,
    message: string,
  ): void {
    if (finding.count === 0) return;
    const error = new FormatError("inconsistent", message, {
      offset: block.pagesOffset + finding.firstPage * block.pageSize,
      section: RAM_SECTION.name,
      block: block.name,
      expected: 0,
      actual: finding.count,
    });
    this.#problems.warn(error, code);
  }
}

/** How many pages something holds for, and the first of them. */
class Finding {
  count = 0;
  firstPage = 0;

  add({ start, end }: PageRun): void {
    if (this.count === 0) this.firstPage = start;
    this.count += end - start;
  }
}

function clearRuns(presence: PagePresence, from: number, to: number): PageRun[] {
  const runs: PageRun[] = [];
  for (let start = from; start < to;) {
    const end = Math.min(to, presence.nextSet(start));
    runs.push({ start, end });
    start = presence.nextClear(end);
  }
  return runs;
}

/**
 * Adds the pages of a run that have content.
 *
 * @param content Of the window's pages.
 * @param first Page at the window's start.
 */
function addContent(content: PageBitmap, run: PageRun, first: number, stale: Finding): void {
  const end = run.end - first;
  for (let start = content.nextSet(run.start - first); start < end;) {
    const stop = Math.min(end, content.nextClear(start));
    stale.add({ start: first + start, end: first + stop });
    start = content.nextSet(stop);
  }
}
