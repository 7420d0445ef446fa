import type { NamedPageRun, Prefetch } from "../engine/index.js";
import { asError } from "../errors/as-error.js";
import { FormatError, UsageError } from "../errors/index.js";
import {
  isSameSnapshot,
  layoutDifference,
  readWorkingSetIfThere,
  trimWorkingSet,
  type WorkingSet,
  type WorkingSetIdentity,
  WorkingSetRecorder,
  writeWorkingSet,
} from "../snapshot/index.js";

/** What a restore does with a working set. */
export interface WorkingSetPlan {
  readonly path: string;
  /** The one to read ahead; undefined when there is none, and this restore is to record one. */
  readonly known: WorkingSet | undefined;
}

/**
 * Looks for the working set of a snapshot.
 *
 * @param path Where it is, or is to be recorded.
 * @param chosen Whether the user named that path: then what is there is meant.
 * @throws UsageError for one that was chosen and is of a guest laid out differently; FormatError for one that is damaged;
 *   MachineError `io`.
 */
export function planWorkingSet(
  path: string,
  chosen: boolean,
  identity: WorkingSetIdentity,
  onMessage: ((message: string) => void) | undefined,
): WorkingSetPlan {
  let known: WorkingSet | undefined;
  try {
    known = readWorkingSetIfThere(path);
  } catch (error) {
    if (chosen || !(error instanceof FormatError)) throw error;
    onMessage?.(`${error.message}: ${path} is recorded anew`);
    return { path, known: undefined };
  }
  if (known === undefined || isSameSnapshot(known, identity)) return { path, known };
  if (!chosen) {
    onMessage?.(`${path} is of another snapshot: it is recorded anew`);
    return { path, known: undefined };
  }
  const difference = layoutDifference(known, identity);
  if (difference !== undefined) {
    throw new UsageError(`The working set is of another guest: ${difference}`, { path });
  }
  onMessage?.(`${path} was recorded of another snapshot of such a guest; it is used all the same`);
  return { path, known };
}

/** The pages of a working set to send ahead, up to a number of bytes. */
export function prefetchOf(set: WorkingSet, when: Prefetch["when"], budgetBytes: number): Prefetch {
  const { runs, blocks } = trimWorkingSet(set, budgetBytes);
  return {
    when,
    budgetBytes,
    runs: runs.map(({ block, firstPage, pageCount }) => ({
      block: blocks[block]?.name ?? "",
      start: firstPage,
      end: firstPage + pageCount,
    })),
  };
}

/**
 * Makes a working set of what a destination asked for, page by page. Pages without content are part of it: an access to one
 * waits as long as to any other.
 *
 * @param requested In order.
 */
export function recordWorkingSet(
  identity: WorkingSetIdentity,
  requested: Iterable<NamedPageRun>,
): WorkingSet {
  const recorder = new WorkingSetRecorder(identity);
  const indexByName = new Map(identity.blocks.map(({ name }, index) => [name, index]));
  for (const { block: name, start, end } of requested) {
    const block = indexByName.get(name);
    if (block !== undefined) recorder.add({ block, firstPage: start, pageCount: end - start });
  }
  return recorder.finish();
}

/** Writes what was recorded. A guest that runs well is no less restored when that fails: it is said, and all. */
export async function keepWorkingSet(
  set: WorkingSet,
  path: string,
  onMessage: ((message: string) => void) | undefined,
): Promise<boolean> {
  try {
    await writeWorkingSet(set, path, { replace: true });
    return true;
  } catch (error) {
    onMessage?.(`The working set was not recorded: ${asError(error).message}`);
    return false;
  }
}
