/**
 * Whether there is direct I/O where tests put their files, and who uses it.
 *
 * @module
 */

import fs, { constants } from "node:fs";
import os from "node:os";
import process from "node:process";

import { vi } from "vitest";

import { descriptorStatus } from "../../src/channels/descriptor.js";

/** Whether the file system of the folder for temporary files has O_DIRECT. */
export function hasDirectIo(): boolean {
  const path = `${os.tmpdir()}/ramport-direct-io-${process.pid}`;
  try {
    fs.closeSync(fs.openSync(path, constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT, 0o600));
    return true;
  } catch {
    return false;
  } finally {
    fs.rmSync(path, { force: true });
  }
}

/** Lengths of transfers by whether their descriptor was open with O_DIRECT, from here on, until vi.restoreAllMocks(). */
export function watchTransfers(): { direct: number[]; buffered: number[] } {
  const seen = { direct: [] as number[], buffered: [] as number[] };
  const note = (fd: number, length: number): void => {
    (descriptorStatus(fd)?.isDirect === true ? seen.direct : seen.buffered).push(length);
  };
  for (const name of ["readSync", "writeSync", "read", "write"] as const) {
    const original: (...args: never[]) => unknown = fs[name];
    vi.spyOn(fs, name).mockImplementation((...args: unknown[]) => {
      note(args[0] as number, args[3] as number);
      return original(...(args as never[]));
    });
  }
  return seen;
}
