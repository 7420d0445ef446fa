import fs from "node:fs";

import { UsageError } from "../errors/index.js";
import type { ByteSource, IncomingFile } from "./byte-stream.js";
import { descriptorFromSet, type DescriptorSets, descriptorStatus } from "./descriptor.js";
import { InPlaceFile } from "./in-place-file.js";
import { SequentialFile } from "./sequential-file.js";
import { errnoCode, systemError } from "./system-error.js";

// Not blocking: opening a FIFO by mistake must not hang.
const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_NONBLOCK } = fs.constants;
/** QEMU's too: the file becomes a guest's memory. */
const CREATE_MODE = 0o600;

/**
 * Opens a file, or the descriptor that its path stands for, for a stream read from `offset`.
 *
 * @returns Without `file` for a block device.
 * @throws MachineError `io`; UsageError for what is no file.
 */
export function openFileForReading(
  path: string,
  offset: number,
  sets?: DescriptorSets,
): { readonly source: ByteSource; readonly file?: IncomingFile } {
  const borrowed = descriptorFromSet(path, "read", sets);
  const keepOpen = borrowed !== undefined;
  const fd = borrowed ?? open(path, O_RDONLY | O_NONBLOCK);
  const stats = fs.fstatSync(fd);
  if (stats.isFile()) {
    const file = new InPlaceFile(path, fd, { startOffset: offset, access: "read", keepOpen });
    return { source: file, file };
  }
  if (stats.isBlockDevice()) return { source: new SequentialFile(path, fd, offset, { keepOpen }) };
  if (!keepOpen) fs.closeSync(fd);
  throw noFile(path, stats, keepOpen ? "pass it as fd:N" : `read it with - and < ${path}`);
}

/**
 * Opens a file, or the descriptor that its path stands for, for a stream written from `offset` on. As QEMU does, it makes
 * a file that is not there, and cuts an existing one off at the offset: what stands before it stays.
 *
 * @returns The file, and whether it has places: one whose descriptor appends only is written from front to back.
 * @throws MachineError `io`; UsageError for what is no regular file.
 */
export function openFileForWriting(
  path: string,
  offset: number,
  sets?: DescriptorSets,
): { readonly file: InPlaceFile; readonly seekable: boolean } {
  const borrowed = descriptorFromSet(path, "write", sets);
  const { fd, access } =
    borrowed === undefined
      ? openOrCreate(path)
      : { fd: borrowed, access: descriptorStatus(borrowed)?.access ?? ("write" as const) };
  const keepOpen = borrowed !== undefined;
  try {
    const stats = fs.fstatSync(fd);
    if (!stats.isFile()) throw noFile(path, stats, keepOpen ? "pass it as fd:N" : "name a regular file");
    fs.ftruncateSync(fd, offset);
  } catch (cause) {
    if (!keepOpen) fs.closeSync(fd);
    throw systemError("Truncating", path, cause);
  }
  const appends = keepOpen && descriptorStatus(fd)?.appends === true;
  const options = { startOffset: offset, access, keepOpen, emptied: true, sharesPlace: appends };
  return { file: new InPlaceFile(path, fd, options), seekable: !appends };
}

/** For both directions where that is allowed: what was written may have to be read back. */
function openOrCreate(path: string): { readonly fd: number; readonly access: "write" | "both" } {
  try {
    return { fd: fs.openSync(path, O_RDWR | O_CREAT | O_NONBLOCK, CREATE_MODE), access: "both" };
  } catch (cause) {
    if (errnoCode(cause) !== "EACCES") throw systemError("Opening", path, cause);
    return { fd: open(path, O_WRONLY | O_NONBLOCK), access: "write" };
  }
}

function open(path: string, flags: number): number {
  try {
    return fs.openSync(path, flags);
  } catch (cause) {
    throw systemError("Opening", path, cause);
  }
}

function noFile(path: string, stats: fs.Stats, hint: string): UsageError {
  if (stats.isFIFO()) return new UsageError(`${path} is a pipe, not a file`, { path, hint });
  const what = stats.isDirectory() ? "a directory" : "no regular file";
  return new UsageError(`${path} is ${what}, not a migration stream`, { path });
}
