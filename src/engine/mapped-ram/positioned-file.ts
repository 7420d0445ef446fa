import type { OverlappedWriter, RandomAccessSource } from "../../channels/index.js";

/** A file, or what can stand for one, that is written and read back at any place. */
export interface PositionedFile extends RandomAccessSource, Partial<OverlappedWriter> {
  /** Writes all of `bytes[at .. at+length)` at `position`. */
  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void;
  /** Makes `length` bytes at `position` read as zero, giving their space back where the file system can. */
  zeroAt(position: number, length: number): void;
}
