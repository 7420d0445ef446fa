import type { PageCounts } from "../mapped-ram/placed-pages.js";
import type { MigrationTarget } from "../migration-target.js";
import type { OverlappedPages } from "./overlapped-pages.js";

/** Where an outgoing migration goes: a stream, or a mapped-ram file. */
export interface OutgoingTarget extends MigrationTarget {
  /** Everything that was written so far, headers and metadata included, and pages each time they were written. */
  readonly transferredBytes: number;
  readonly pageCounts: PageCounts;
  /** Whether it writes down at the end which pages there are, so that a page must not come, nor change, after that. */
  readonly closesPages: boolean;
  /**
   * Hands on what was taken in, after `SLICE_BYTES` of pages at the latest.
   *
   * @throws MachineError when the other side does not take it.
   */
  drain(): Promise<void>;
  /**
   * Takes pages in place of the sink, where the target writes beside this thread. It has to be settled before the section
   * ends, and before a guest whose memory it took goes on.
   */
  readonly overlapped?: OverlappedPages | undefined;
  /** The dirty bitmap was synchronized; `round` counts from 1. */
  beginRound(round: number): void;
  /** The other side has said that it has loaded everything: the guest is its own from then on. */
  readonly hasArrived: boolean;
  /**
   * Everything was handed over: makes sure that it has arrived, as far as the channel can tell. Until this returns the
   * source keeps its guest.
   */
  finish(): Promise<void>;
  /** Breaks off whatever is being waited for: it then throws. */
  abort(): void;
}
