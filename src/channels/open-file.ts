import fs from "node:fs";

import { UsageError } from "../errors/index.js";
import type { ByteSource, IncomingFile } from "./byte-stream.js";
import {
  descriptorFromSet,
  type DescriptorSets,
  descriptorStatus,
  type SetDescriptors,
} from "./descriptor.js";
import type { DirectIo } from "./direct-io.js";
import { InPlaceFile, type InPlaceFileOptions } from "./in-place-file.js";
import { SequentialFile } from "./sequential-file.js";
import { errnoCode, systemError } from "./system-error.js";

// Not blocking: opening a FIFO by mistake must not hang.
const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_NONBLOCK } = fs.constants;
/** QEMU's too: the file becomes a guest's memory. */
const CREATE_MODE = 0o600;

/** What else both ways of opening take. */
export interface OpenFileOptions {
  readonly descriptorSets?: DescriptorSets;
  /** Whether large reads and writes at places go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
}

/**
 * Opens a file, or the descriptor that its path stands for, for a stream read from `offset`.
 *
 * @returns Without `file` for a block device.
 * @throws MachineError `io`, and `not-capable` when direct I/O is required and the file system does not have it; UsageError
 *   for what is no file.
 */
export function openFileForReading(
  path: string,
  offset: number,
  { descriptorSets, directIo = "off" }: OpenFileOptions = {},
): { readonly source: ByteSource; readonly file?: IncomingFile } {
  const borrowed = descriptorFromSet(path, "read", descriptorSets, directIo);
  const keepOpen = borrowed !== undefined;
  const fd = borrowed?.fd ?? open(path, O_RDONLY | O_NONBLOCK);
  try {
    const stats = fs.fstatSync(fd);
    if (stats.isFile()) {
      const options = {
        startOffset: offset,
        access: "read",
        keepOpen,
        ...directOptions(borrowed, directIo),
      } as const;
      const file = new InPlaceFile(path, fd, options);
      return { source: file, file };
    }
    if (stats.isBlockDevice()) return { source: new SequentialFile(path, fd, offset, { keepOpen }) };
    throw noFile(path, stats, keepOpen ? "pass it as fd:N" : `read it with - and < ${path}`);
  } catch (error) {
    if (!keepOpen) fs.closeSync(fd);
    throw error;
  }
}

/**
 * Opens a file, or the descriptor that its path stands for, for a stream written from `offset` on. As QEMU does, it makes
 * a file that is not there, and cuts an existing one off at the offset: what stands before it stays.
 *
 * @returns The file, and whether it has places: one whose descriptor appends only is written from front to back.
 * @throws MachineError `io`, and `not-capable` when direct I/O is required and the file system does not have it; UsageError
 *   for what is no regular file.
 */
export function openFileForWriting(
  path: string,
  offset: number,
  { descriptorSets, directIo = "off" }: OpenFileOptions = {},
): { readonly file: InPlaceFile; readonly seekable: boolean } {
  const borrowed = descriptorFromSet(path, "write", descriptorSets, directIo);
  const { fd, access } =
    borrowed === undefined
      ? openOrCreate(path)
      : { fd: borrowed.fd, access: descriptorStatus(borrowed.fd)?.access ?? ("write" as const) };
  const keepOpen = borrowed !== undefined;
  try {
    const stats = fs.fstatSync(fd);
    if (!stats.isFile()) throw noFile(path, stats, keepOpen ? "pass it as fd:N" : "name a regular file");
    fs.ftruncateSync(fd, offset);
    const appends = keepOpen && descriptorStatus(fd)?.appends === true;
    const file = new InPlaceFile(path, fd, {
      ...{ startOffset: offset, access, keepOpen, emptied: true, sharesPlace: appends },
      ...directOptions(borrowed, directIo),
    });
    return { file, seekable: !appends };
  } catch (cause) {
    if (!keepOpen) fs.closeSync(fd);
    throw systemError("Truncating", path, cause);
  }
}

/** A set has its own descriptor for it, or goes without. */
function directOptions(
  borrowed: SetDescriptors | undefined,
  directIo: DirectIo,
): Pick<InPlaceFileOptions, "directIo" | "directFd"> {
  if (borrowed === undefined) return { directIo };
  return borrowed.directFd === undefined ? {} : { directFd: borrowed.directFd };
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
