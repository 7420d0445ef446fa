import type { RandomAccessSource } from "../channels/index.js";
import { examineMappedRam, type ExaminedMappedRamFile } from "../engine/mapped-ram/open.js";
import { readTailBytes } from "../engine/mapped-ram/tail.js";
import { findOverlaps } from "../engine/mapped-ram/areas.js";
import { FormatError } from "../errors/index.js";
import { examineStreamTail, type ExaminedStreamTail } from "../wire/index.js";
import { compareDescription } from "./description-agreement.js";
import { listMappedRamSections } from "./mapped-ram-sections.js";
import type { SnapshotSection } from "./snapshot.js";

/** Everything of a mapped-ram file but bitmaps and pages, as far as it can be read. */
export interface MappedRamReading {
  readonly skeleton: ExaminedMappedRamFile;
  /** Absent when the end of the RAM section was not found, or what follows it is absurdly long. */
  readonly tail?: ExaminedStreamTail;
  readonly sections: readonly SnapshotSection[];
  /** What is wrong, in the order it was found. */
  readonly problems: readonly FormatError[];
}

/**
 * What a reading passes over: `nothing`; damage behind the RAM blocks (`tail`), which leaves all of guest memory readable;
 * or also blocks that break rules (`all`).
 */
export type Tolerance = "nothing" | "tail" | "all";

/**
 * Reads a mapped-ram file's skeleton and tail.
 *
 * @param problems Where to put what is wrong and tolerated: there also when something else is thrown later.
 * @throws FormatError for what is not tolerated, and for what leaves nothing to go on with.
 */
export function readMappedRam(
  source: RandomAccessSource,
  offset: number,
  tolerance: Tolerance,
  problems: FormatError[] = [],
): MappedRamReading {
  const note = (problem: FormatError): void => {
    const inBlock = problem.data.block !== undefined;
    if (tolerance === "nothing" || (tolerance === "tail" && inBlock)) throw problem;
    problems.push(problem);
  };
  const skeleton = examineMappedRam(source, offset, { onProblem: note });
  if (tolerance !== "all") for (const { error } of findOverlaps(skeleton, source.sizeBytes)) note(error);
  const tail = readTail(source, skeleton, note);
  for (const problem of tail?.problems ?? []) note(problem);
  const sections = listMappedRamSections(skeleton, tail);
  const description = tail?.description;
  if (tail?.eofOffset !== undefined && description !== undefined) {
    const disagreements = compareDescription(description.content, {
      sections,
      targetPageSize: skeleton.pageSize,
      ramEndOffset: tail.baseOffset,
      descriptionOffset: description.offset,
    });
    for (const problem of disagreements) note(problem);
  }
  return { skeleton, ...(tail === undefined ? {} : { tail }), sections, problems };
}

function readTail(
  source: RandomAccessSource,
  skeleton: ExaminedMappedRamFile,
  note: (problem: FormatError) => void,
): ExaminedStreamTail | undefined {
  if (skeleton.ramEndOffset === undefined) return undefined;
  try {
    return examineStreamTail(readTailBytes(source, skeleton.ramEndOffset), skeleton.ramEndOffset, skeleton);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    note(error);
    return undefined;
  }
}
