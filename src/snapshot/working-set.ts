import { assert, UsageError } from "../errors/index.js";
import { PageBitmap } from "../memory/index.js";

/** A RAM block that a working set has pages of, or could have. */
export interface WorkingSetBlock {
  /** As the snapshot has it: may hold any character. */
  readonly name: string;
  /** Bytes. */
  readonly usedLength: number;
}

/** Pages that were asked for one after the other. */
export interface WorkingSetRun {
  /** Place in the working set's list of blocks, from 0. */
  readonly block: number;
  readonly firstPage: number;
  readonly pageCount: number;
}

/** How a guest's memory is laid out. A `Snapshot` says it too. */
export interface MemoryLayout {
  /** Bytes. */
  readonly targetPageSize: number;
  readonly blocks: readonly WorkingSetBlock[];
}

/** Which snapshot a working set belongs to. */
export interface WorkingSetIdentity extends MemoryLayout {
  /** 16 bytes that tell this snapshot from others: `snapshotFingerprint` makes them. */
  readonly fingerprint: Uint8Array;
}

/** The pages that a guest asked for while it was restored lazily, in the order of its first requests. */
export interface WorkingSet extends WorkingSetIdentity {
  /** No page is in two of them. */
  readonly runs: readonly WorkingSetRun[];
}

/** Bounds of a working set: beyond them recording ends, and a file is not believed. */
export const WorkingSetLimits = {
  /** A guest that jumps about in 4 GiB makes so many; it has no working set that is worth reading ahead. */
  runs: 2 ** 20,
} as const;

/** Gathers pages in the order in which they are asked for. */
export class WorkingSetRecorder {
  readonly #identity: WorkingSetIdentity;
  readonly #seen: readonly SeenPages[];
  readonly #runs: WorkingSetRun[] = [];
  #pageCount = 0;
  #full = false;

  constructor(identity: WorkingSetIdentity) {
    this.#identity = identity;
    this.#seen = identity.blocks.map(() => new SeenPages());
  }

  /** Different pages so far. */
  get pageCount(): number {
    return this.#pageCount;
  }

  /** Whether pages were left out, because there were more runs than {@link WorkingSetLimits} allows. */
  get isFull(): boolean {
    return this.#full;
  }

  /** Adds pages; those that were added before keep their place. Pages outside the block are a caller's mistake. */
  add({ block, firstPage, pageCount }: WorkingSetRun): void {
    const seen = this.#seen[block];
    const length = this.#identity.blocks[block]?.usedLength ?? 0;
    const end = firstPage + pageCount;
    assert(
      seen !== undefined && firstPage >= 0 && end * this.#identity.targetPageSize <= length,
      `recording pages ${firstPage} to ${end} of block ${block}`,
    );
    for (let page = firstPage; page < end;) {
      const start = seen.next(page, end, false);
      page = seen.next(start, end, true);
      if (page > start) this.#append(seen, { block, firstPage: start, pageCount: page - start });
    }
  }

  /** What was recorded so far. */
  finish(): WorkingSet {
    return { ...this.#identity, runs: [...this.#runs] };
  }

  #append(seen: SeenPages, run: WorkingSetRun): void {
    const last = this.#runs.at(-1);
    const goesOn = last?.block === run.block && last.firstPage + last.pageCount === run.firstPage;
    if (goesOn) {
      this.#runs[this.#runs.length - 1] = { ...last, pageCount: last.pageCount + run.pageCount };
    } else if (this.#runs.length < WorkingSetLimits.runs) {
      this.#runs.push(run);
    } else {
      this.#full = true;
      return;
    }
    seen.add(run.firstPage, run.firstPage + run.pageCount);
    this.#pageCount += run.pageCount;
  }
}

/**
 * One working set of several recordings of a snapshot. A page stands where the recording that asked for it soonest has it,
 * counted in pages before it.
 *
 * @throws UsageError for none at all, and for recordings of guests whose memory is laid out differently.
 */
export function mergeWorkingSets(sets: readonly WorkingSet[]): WorkingSet {
  const [first, ...others] = sets;
  if (first === undefined) throw new UsageError("There is no working set to merge");
  for (const other of others) {
    const difference = layoutDifference(first, other);
    if (difference === undefined) continue;
    throw new UsageError(`These working sets are of different guests: ${difference}`, {
      hint: "merge only recordings of one snapshot",
    });
  }
  const queues = sets.map(({ runs }) => ({ runs, next: 0, pagesBefore: 0 }));
  const merged = new WorkingSetRecorder(first);
  for (;;) {
    const waiting = queues.filter(({ runs, next }) => next < runs.length);
    const [head, ...rest] = waiting;
    if (head === undefined) return merged.finish();
    const soonest = rest.reduce((a, b) => (b.pagesBefore < a.pagesBefore ? b : a), head);
    const run = soonest.runs[soonest.next];
    assert(run !== undefined, "a queue without a run");
    merged.add(run);
    soonest.next += 1;
    soonest.pagesBefore += run.pageCount;
  }
}

/** The first pages of a working set, as many whole ones as `bytes` has room for. */
export function trimWorkingSet(set: WorkingSet, bytes: number): WorkingSet {
  let left = Math.floor(bytes / set.targetPageSize);
  const runs: WorkingSetRun[] = [];
  for (const run of set.runs) {
    if (left <= 0) break;
    const pageCount = Math.min(run.pageCount, left);
    runs.push({ ...run, pageCount });
    left -= pageCount;
  }
  return { ...set, runs };
}

/** Whether two working sets, or one and a snapshot, are of the same saved state. */
export function isSameSnapshot(a: WorkingSetIdentity, b: WorkingSetIdentity): boolean {
  return (
    layoutDifference(a, b) === undefined &&
    a.fingerprint.every((byte, index) => byte === b.fingerprint[index])
  );
}

/** In what the memory of two guests differs, in a few words; undefined when pages of one have a place in the other. */
export function layoutDifference(a: MemoryLayout, b: MemoryLayout): string | undefined {
  if (a.targetPageSize !== b.targetPageSize) {
    return `pages of ${a.targetPageSize} bytes, and of ${b.targetPageSize}`;
  }
  if (a.blocks.length !== b.blocks.length) return `${a.blocks.length} blocks, and ${b.blocks.length}`;
  const index = a.blocks.findIndex(({ name, usedLength }, place) => {
    const other = b.blocks[place];
    return other?.name !== name || other.usedLength !== usedLength;
  });
  const [one, other] = [a.blocks[index], b.blocks[index]];
  if (one === undefined || other === undefined) return undefined;
  return `${one.name} of ${one.usedLength} bytes, and ${other.name} of ${other.usedLength}`;
}

/** Numbers of a working set, ready for JSON. */
export interface WorkingSetNumbers {
  readonly pages: number;
  readonly bytes: number;
  readonly runs: number;
  /** Bytes of all blocks together. */
  readonly ramBytes: number;
  readonly targetPageSize: number;
  /** In hexadecimal. */
  readonly fingerprint: string;
  readonly blocks: readonly {
    readonly name: string;
    readonly usedLength: number;
    readonly pages: number;
    readonly bytes: number;
  }[];
}

/** Adds up a working set. */
export function workingSetNumbers(set: WorkingSet): WorkingSetNumbers {
  const { targetPageSize, runs, fingerprint } = set;
  const pagesOf = set.blocks.map(() => 0);
  for (const { block, pageCount } of runs) pagesOf[block] = (pagesOf[block] ?? 0) + pageCount;
  const pages = pagesOf.reduce((sum, count) => sum + count, 0);
  return {
    pages,
    bytes: pages * targetPageSize,
    runs: runs.length,
    ramBytes: set.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0),
    targetPageSize,
    fingerprint: Array.from(fingerprint, (byte) => byte.toString(16).padStart(2, "0")).join(""),
    blocks: set.blocks.map((block, index) => {
      const count = pagesOf[index] ?? 0;
      return { ...block, pages: count, bytes: count * targetPageSize };
    }),
  };
}

/** Pages of a {@link SeenPages}' piece: a bitmap of 4 KiB. */
const PIECE_PAGES = 32_768;

/** A page bitmap that takes memory only where pages were added: what a file says of a block's length costs nothing. */
class SeenPages {
  readonly #pieces = new Map<number, PageBitmap>();

  add(start: number, end: number): void {
    for (let page = start; page < end;) {
      const index = Math.floor(page / PIECE_PAGES);
      const first = index * PIECE_PAGES;
      const stop = Math.min(end, first + PIECE_PAGES);
      let piece = this.#pieces.get(index);
      if (piece === undefined) this.#pieces.set(index, (piece = new PageBitmap(PIECE_PAGES)));
      piece.setRange(page - first, stop - first);
      page = stop;
    }
  }

  /** The first page from `from` on and before `end` that was added, or was not; `end` when there is none. */
  next(from: number, end: number, added: boolean): number {
    for (let page = from; page < end;) {
      const index = Math.floor(page / PIECE_PAGES);
      const first = index * PIECE_PAGES;
      const stop = Math.min(end, first + PIECE_PAGES);
      const piece = this.#pieces.get(index);
      if (piece === undefined) {
        if (!added) return page;
      } else {
        const found = first + (added ? piece.nextSet(page - first) : piece.nextClear(page - first));
        if (found < stop) return found;
      }
      page = stop;
    }
    return end;
  }
}
