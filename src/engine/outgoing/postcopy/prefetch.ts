import { UsageError } from "../../../errors/index.js";
import type { PageRun } from "../../../memory/index.js";
import type { PageSource } from "./page-source.js";
import type { BlockRun, PagePlace, SentPages } from "./sent-pages.js";

/** Target pages of a RAM block by its name, `start` up to, not including, `end`. */
export interface NamedPageRun extends PageRun {
  readonly block: string;
}

/** Pages that a guest is known to want soon, and when they go out. */
export interface Prefetch {
  /** In the order in which they are wanted. */
  readonly runs: Iterable<NamedPageRun>;
  /** Bytes of guest memory to send at most, pages without content counted in. */
  readonly budgetBytes: number;
  /**
   * Before the guest runs, as precopy pages, which costs time until then and no faults after; or first of all when it
   * runs.
   */
  readonly when: "before-run" | "after-run";
}

/**
 * The unsent host pages of a prefetch, as far as its budget goes. Those without content are among them: an access to one
 * waits as long.
 *
 * @throws UsageError for pages that the source does not have.
 */
export function prefetchRuns(
  source: PageSource,
  sent: SentPages,
  { runs, budgetBytes }: Pick<Prefetch, "runs" | "budgetBytes">,
): BlockRun[] {
  const indexByName = new Map(source.blocks.map(({ name }, index) => [name, index]));
  const result: BlockRun[] = [];
  let leftBytes = budgetBytes;
  for (const { block: name, start, end } of runs) {
    const block = indexByName.get(name);
    const described = block === undefined ? undefined : source.blocks[block];
    if (block === undefined || described === undefined || !isInside(start, end, described, source)) {
      throw new UsageError("The working set has pages that the snapshot does not have", {
        block: name,
        actual: `pages ${start} to ${end}`,
      });
    }
    const perHostPage = described.hostPageSize / source.targetPageSize;
    const run = { block, start: Math.floor(start / perHostPage), end: Math.ceil(end / perHostPage) };
    for (const unsent of sent.unsentIn(run)) {
      const most = Math.floor(leftBytes / described.hostPageSize);
      const cut = { ...unsent, end: Math.min(unsent.end, unsent.start + most) };
      if (cut.end === cut.start) return result;
      result.push(cut);
      leftBytes -= (cut.end - cut.start) * described.hostPageSize;
    }
  }
  return result;
}

/** Host pages by number as target pages by name. */
export function namedRun(source: PageSource, { block, page }: PagePlace): NamedPageRun {
  const described = source.blocks[block];
  const perHostPage = (described?.hostPageSize ?? source.targetPageSize) / source.targetPageSize;
  return { block: described?.name ?? "", start: page * perHostPage, end: (page + 1) * perHostPage };
}

function isInside(
  start: number,
  end: number,
  { usedLength }: { readonly usedLength: number },
  { targetPageSize }: PageSource,
): boolean {
  return start >= 0 && start < end && end <= usedLength / targetPageSize;
}
