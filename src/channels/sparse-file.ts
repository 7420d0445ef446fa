import { optionalSystemCalls } from "./system-calls.js";

/** `fallocate(2)` and `lseek(2)` as Linux declares them; offsets are plain numbers below 2^53. */
interface SparseCalls {
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  lseek(fd: number, offset: number, whence: number): number;
}

const FALLOC_FL_KEEP_SIZE = 0x01;
const FALLOC_FL_PUNCH_HOLE = 0x02;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

const sparseCalls = optionalSystemCalls((libc): SparseCalls => ({
  fallocate: libc.func(
    "int fallocate(int fd, int mode, int64_t offset, int64_t length)",
  ) as SparseCalls["fallocate"],
  lseek: libc.func("int64_t lseek(int fd, int64_t offset, int whence)") as SparseCalls["lseek"],
}));

/**
 * Gives the space of a range back; it reads as zero afterwards.
 *
 * @returns false when this machine, the file system or the absence of the optional package `koffi` does not allow it:
 *   the range is then unchanged.
 */
export function punchHole(fd: number, offset: number, length: number): boolean {
  const result = sparseCalls()?.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
  return result === 0;
}

/**
 * The first range at or after `offset` that the file system holds data for.
 *
 * @param end Where to stop looking: the file's size or the end of the part of interest.
 * @returns The range, cut at `end`; undefined when only a hole is left. Without the optional package `koffi`, or on a file
 *   system that does not tell, everything counts as data.
 */
export function nextDataRange(
  fd: number,
  offset: number,
  end: number,
): { start: number; end: number } | undefined {
  if (offset >= end) return undefined;
  const system = sparseCalls();
  if (system === undefined) return { start: offset, end };
  const start = system.lseek(fd, offset, SEEK_DATA);
  // -1 is ENXIO (no data behind), or a file system that cannot tell; SEEK_HOLE knows the difference.
  if (start < 0) return system.lseek(fd, offset, SEEK_HOLE) < 0 ? { start: offset, end } : undefined;
  if (start >= end) return undefined;
  const hole = system.lseek(fd, start, SEEK_HOLE);
  return { start, end: hole < 0 ? end : Math.min(hole, end) };
}
