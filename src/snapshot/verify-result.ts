import type { SnapshotContainer, SnapshotFormat } from "./snapshot.js";
import type { CheckedPages } from "./verify-pages.js";
import type { VerifyProblem } from "./verify-problems.js";

/** A RAM block in {@link VerifyResult}. */
export interface VerifiedBlock {
  /** Raw: may hold any character. */
  readonly name: string;
  readonly usedLength: number;
  /** Absent when the block was left out, or its places are so wrong that its content means nothing. */
  readonly pages?: CheckedPages;
}

/** What verify found: plain data, ready for JSON. The facts are there as far as the file could be read. */
export interface VerifyResult {
  /** No problem is an error; there may be warnings. */
  readonly ok: boolean;
  readonly problems: readonly VerifyProblem[];
  /** Problems beyond the first few hundred, which are only counted. */
  readonly omittedProblems: number;
  readonly fileBytes: number;
  readonly streamOffset: number;
  readonly container?: SnapshotContainer;
  readonly format?: SnapshotFormat;
  readonly machine?: string;
  readonly targetPageSize?: number;
  readonly ram?: {
    readonly totalBytes: number;
    /** Sums over the blocks that could be checked. */
    readonly pages: CheckedPages;
    readonly blocks: readonly VerifiedBlock[];
  };
  /** How many sections there are, RAM among them. */
  readonly sections?: number;
}
