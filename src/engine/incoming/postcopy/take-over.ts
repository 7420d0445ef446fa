import type { PostcopyAdvice, RamDiscard } from "../../../wire/index.js";
import type { PostcopyStart } from "../../postcopy/postcopy-host.js";

/** Where a stream stands behind PACKAGED. */
export type StreamPlace = Pick<
  PostcopyStart,
  "currentBlock" | "footers" | "offset" | "ramSectionId" | "unread"
>;

/** Takes a migration over when it goes on by postcopy: what the reader of the stream knows of that. */
export interface PostcopyTakeOver {
  /** POSTCOPY_ADVISE: it may go over to postcopy later, and need not. */
  advise(advice: PostcopyAdvice, offset: number): void;
  /** POSTCOPY_RAM_DISCARD: pages that came are out of date. */
  discard(discard: RamDiscard, offset: number): void;
  /**
   * PACKAGED: from here on it reads the source itself, and the reader of the stream is done. Resolves when the guest runs, or
   * may.
   *
   * @param bytes The nested stream, which stands at `offset` in the migration's.
   */
  take(bytes: Uint8Array, offset: number, place: StreamPlace): Promise<void>;
}
