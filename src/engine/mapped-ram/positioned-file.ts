import type { OverlappedWriter, RandomAccessSource } from "../../channels/index.js";

/** A file, or what can stand for one, that is written and read back at any place. */
export interface PositionedFile extends RandomAccessSource, Partial<OverlappedWriter> {
  /**
   * Whether everything goes through the page cache. Writes of one file then wait for each other in the kernel, and several at
   * a time are slower than one after the other.
   */
  readonly isCached?: boolean;
  /** Writes all of `bytes[at .. at+length)` at `position`. */
  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void;
  /**
   * Writes all of `bytes` at `position` beside this thread; they must stay as they are meanwhile. Absent where that cannot
   * be: then one write comes after the other.
   */
  startWrite?(bytes: Uint8Array, position: number): Promise<void>;
  /** Makes `length` bytes at `position` read as zero, giving their space back where the file system can. */
  zeroAt(position: number, length: number): void;
}
