import { UsageError } from "../errors/index.js";
import type { Snapshot } from "../snapshot/index.js";
import { layoutDifference, type WorkingSet } from "../snapshot/working-set.js";
import { CellGrid } from "./cell-grid.js";
import { WORKING_SET_KINDS } from "./kinds.js";
import { cellPagesFor, describe, mapBlock, type MapOptions, type MemoryMap } from "./memory-map.js";

/**
 * Says of every page of a snapshot whether, and when, a guest that was restored lazily asked for it. Reads no page: which
 * ones have content is known without.
 *
 * @throws UsageError when the working set is of a guest whose memory is laid out differently; what reading the snapshot does.
 */
export function mapWorkingSet(
  snapshot: Snapshot,
  set: WorkingSet,
  options: Pick<MapOptions, "maxCells"> = {},
): MemoryMap {
  const { blocks } = snapshot;
  const difference = layoutDifference(set, snapshot);
  if (difference !== undefined) {
    throw new UsageError(`The working set is of another guest: ${difference}`);
  }
  const cellPages = cellPagesFor(
    blocks.map(({ pageCount }) => pageCount),
    options.maxCells,
  );
  const grids = blocks.map(({ leftOut, pageCount }) =>
    leftOut ? undefined : new CellGrid(pageCount, cellPages, WORKING_SET_KINDS.length),
  );
  const asked = askedPages(set);
  for (const block of blocks) {
    const grid = grids[block.index];
    if (grid === undefined) continue;
    const runs = asked[block.index] ?? [];
    for (const { start, end, kind } of runs) grid.add(kind, start, end);
    let next = 0;
    for (const { start, end } of snapshot.presentRuns(block)) {
      // What is left of the run between pages that were asked for.
      let page = start;
      while (next < runs.length && (runs[next]?.end ?? 0) <= page) next += 1;
      for (let index = next; page < end; index++) {
        const run = runs[index];
        const stop = Math.min(end, run?.start ?? end);
        if (stop > page) grid.add(CONTENT, page, stop);
        if (run === undefined || run.start >= end) break;
        page = Math.max(page, run.end);
      }
    }
    grid.fillUp(ZERO);
  }
  return {
    subject: "working-set",
    snapshots: [describe(snapshot)],
    kinds: WORKING_SET_KINDS,
    cellPages,
    targetPageSize: snapshot.targetPageSize,
    blocks: blocks.map((block, index) => mapBlock(block, grids[index])),
  };
}

/** Pages `start` up to, not including, `end`, and what they are. */
interface AskedRun {
  readonly start: number;
  readonly end: number;
  readonly kind: number;
}

/** By block, in order of their places; those that were asked for in the first third are told from the others. */
function askedPages(set: WorkingSet): AskedRun[][] {
  const total = set.runs.reduce((sum, { pageCount }) => sum + pageCount, 0);
  const byBlock: AskedRun[][] = set.blocks.map(() => []);
  let before = 0;
  for (const { block, firstPage, pageCount } of set.runs) {
    for (let done = 0; done < pageCount;) {
      const third = Math.min(2, Math.floor(((before + done) * 3) / total));
      const untilNext = Math.max(1, Math.ceil(((third + 1) * total) / 3) - before - done);
      const pages = Math.min(pageCount - done, untilNext);
      const start = firstPage + done;
      byBlock[block]?.push({ start, end: start + pages, kind: FIRST + third });
      done += pages;
    }
    before += pageCount;
  }
  for (const runs of byBlock) runs.sort((a, b) => a.start - b.start);
  return byBlock;
}

const ZERO = WORKING_SET_KINDS.findIndex(({ id }) => id === "zero");
const CONTENT = WORKING_SET_KINDS.findIndex(({ id }) => id === "not-asked");
const FIRST = WORKING_SET_KINDS.findIndex(({ id }) => id === "asked-first");
