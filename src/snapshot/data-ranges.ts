import type { RandomAccessSource } from "../channels/index.js";
import { nextDataRange } from "../channels/sparse-file.js";

/** Bytes `start` up to, not including, `end` of a file. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/**
 * The ranges within `start` to `end` that the file system holds data for, in order. What is not a file, or lies where
 * nobody can tell, is all data.
 */
export function* dataRanges(
  source: RandomAccessSource,
  start: number,
  end: number,
): Generator<ByteRange, void, undefined> {
  const fd = descriptorOf(source);
  if (fd === undefined) {
    if (start < end) yield { start, end };
    return;
  }
  for (let range = nextDataRange(fd, start, end); range !== undefined;) {
    yield range;
    range = nextDataRange(fd, range.end, end);
  }
}

/** Whether the file system says that it holds nothing between `start` and `end`. */
export function isHole(source: RandomAccessSource, start: number, end: number): boolean {
  const fd = descriptorOf(source);
  return fd !== undefined && nextDataRange(fd, start, end) === undefined;
}

function descriptorOf(source: RandomAccessSource): number | undefined {
  return "fd" in source && typeof source.fd === "number" ? source.fd : undefined;
}
