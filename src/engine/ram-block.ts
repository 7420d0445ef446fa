import { isZero, type PageRun } from "../memory/index.js";

/** What is looked at at once when memory is cleared: a multiple of every page size. */
const CLEAR_BYTES = 256 << 10;

/** A piece of guest memory that migrates under its own name. */
export interface HostRamBlock {
  /** What the block list calls it: `pc.ram`. Unique in its host. */
  readonly name: string;
  /** Bytes: a multiple of the host's page size. */
  readonly usedLength: number;
  /** Bytes that the block can grow to, a multiple of the page size; {@link usedLength} where it cannot. */
  readonly maximumLength?: number;
  /** Memory that the destination has too, by a file for example: with `x-ignore-shared` its pages do not travel. */
  readonly shared?: boolean;
  /** Where the guest sees the block; with `x-ignore-shared` both sides must agree on it. Default 0. */
  readonly guestAddress?: bigint;
  /**
   * The guest's own memory, in order and without gaps: writing here changes the guest. Each segment but the last is a
   * multiple of 1 MiB, so that no page is divided; there are several because one typed array cannot pass 4 GiB.
   */
  readonly segments: readonly Uint8Array[];
}

/**
 * Calls `use` for the pieces of `address .. address + length` of a block, which its segments divide.
 *
 * @param most Largest piece in bytes, a multiple of the page size.
 */
export function eachPiece(
  segments: readonly Uint8Array[],
  address: number,
  length: number,
  most: number,
  use: (bytes: Uint8Array, address: number) => void,
): void {
  const end = address + length;
  let segmentStart = 0;
  for (const segment of segments) {
    const segmentEnd = segmentStart + segment.length;
    for (let at = Math.max(address, segmentStart); at < Math.min(end, segmentEnd);) {
      const next = Math.min(end, segmentEnd, at + most);
      use(segment.subarray(at - segmentStart, next - segmentStart), at);
      at = next;
    }
    segmentStart = segmentEnd;
  }
}

/** Makes runs of a block's pages zero. Where they are zero already nothing is written: untouched memory stays so. */
export function clearPages(segments: readonly Uint8Array[], runs: Iterable<PageRun>, pageSize: number): void {
  for (const { start, end } of runs) {
    eachPiece(segments, start * pageSize, (end - start) * pageSize, CLEAR_BYTES, (bytes) => {
      if (!isZero(bytes, 0, bytes.length)) bytes.fill(0);
    });
  }
}
