import fs from "node:fs";

import { punchHole } from "./sparse-file.js";
import { systemError } from "./system-error.js";

/** What a descriptor was opened for. */
export type FileAccess = "read" | "write" | "both";

/** Zeros are written in pieces of this size where no hole can be made. */
const ZERO_BYTES = 1 << 20;

/**
 * Reads at a place; the descriptor's own place stays.
 *
 * @param path What the file is called in errors.
 * @returns How many bytes were read: fewer than there is room for only at the file's end.
 * @throws MachineError `io`.
 */
export function readAllAt(fd: number, path: string, target: Uint8Array, position: number): number {
  let done = 0;
  try {
    while (done < target.length) {
      const count = fs.readSync(fd, target, done, target.length - done, position + done);
      if (count === 0) break;
      done += count;
    }
  } catch (cause) {
    throw systemError("Reading", path, cause);
  }
  return done;
}

/**
 * Writes `bytes[at .. at+length)` at `position`, all of it; the descriptor's own place stays.
 *
 * @param path What the file is called in errors.
 * @throws MachineError `io`.
 */
export function writeAllAt(
  fd: number,
  path: string,
  bytes: Uint8Array,
  at: number,
  length: number,
  position: number,
): void {
  try {
    for (let done = 0; done < length;) {
      done += fs.writeSync(fd, bytes, at + done, length - done, position + done);
    }
  } catch (cause) {
    throw systemError("Writing", path, cause);
  }
}

/**
 * Makes `length` bytes at `position` read as zero: a hole where that is possible, written zeros elsewhere.
 *
 * @param path What the file is called in errors.
 * @throws MachineError `io`.
 */
export function zeroRangeAt(fd: number, path: string, position: number, length: number): void {
  if (punchHole(fd, position, length)) return;
  const zeros = new Uint8Array(Math.min(length, ZERO_BYTES));
  for (let done = 0; done < length; done += zeros.length) {
    writeAllAt(fd, path, zeros, 0, Math.min(zeros.length, length - done), position + done);
  }
}

/** Waits until what was written is on the device; fails with the system's own error. */
export function syncDescriptor(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fsync(fd, (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
}
