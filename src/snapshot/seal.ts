import fs from "node:fs";

import type { DirectIo } from "../channels/direct-io.js";
import { ReadableFile } from "../channels/file.js";
import { InPlaceFile } from "../channels/in-place-file.js";
import { systemError } from "../channels/system-error.js";
import { checkPageBitmaps, countPages } from "../engine/mapped-ram/bitmaps.js";
import type { MappedRamFile } from "../engine/mapped-ram/open.js";
import { clearStalePages, findStaleBytes } from "../engine/mapped-ram/stale-pages.js";
import type { ProgressListener } from "../engine/progress.js";
import { FormatError, MachineError, printable, throwIfAborted } from "../errors/index.js";
import { convertSnapshot } from "./convert.js";
import { identifySnapshot } from "./identify.js";
import { readMappedRam } from "./mapped-ram-reading.js";
import { openSource, type SnapshotLocation } from "./open.js";

/** What maps a page area asks of its place in the file: the page size of every host that QEMU runs clones on, at least. */
export const MAPPING_ALIGNMENT = 4096;

/** How to seal. */
export interface SealOptions extends SnapshotLocation {
  /** A new file, sealed, while the source stays as it is. Without it the source itself is sealed. */
  readonly output?: string;
  /** With `output`: replace an existing file. */
  readonly replace?: boolean;
  /** With `output`: bytes; for guests whose target page is not 4096 bytes and whose stream does not say so. */
  readonly targetPageSize?: number;
  /** With `output`: whether large reads and writes of the files go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** A sealed snapshot: plain data, ready for JSON. Sizes and offsets are bytes. */
export interface SealResult {
  readonly path: string;
  /** Where the snapshot begins in the file. */
  readonly offset: number;
  readonly machine: string;
  readonly ramBytes: number;
  readonly pages: { readonly normal: number; readonly zero: number };
  /** Old bytes of zero pages that were cleared; 0 for a new file, which has none. */
  readonly clearedBytes: number;
  readonly fileBytes: number;
  readonly allocatedBytes: number;
}

/**
 * Makes a mapped-ram file fit for clones, which have its page areas as their memory: places of zero pages read as zero, and
 * nobody may write to the file any more. Sealing a sealed file changes nothing, not even its modification time.
 *
 * In place, what was done before a failure stays done and is no harm: the bytes that are cleared mean nothing to a loader.
 * With `output` a new file is written from any snapshot, and is whole or not there.
 *
 * @throws FormatError when the file is damaged, or in place no mapped-ram file; MachineError `io`, also when the file may not be
 *   written; UsageError when the output exists; CancelledError.
 */
export async function sealSnapshot(path: string, options: SealOptions = {}): Promise<SealResult> {
  throwIfAborted(options.signal);
  if (options.output === undefined) return sealInPlace(path, options);
  const { output, ...rest } = options;
  const converted = await convertSnapshot(path, output, {
    ...rest,
    to: "mapped-ram",
    ...(isLibvirtImage(path, options) ? { libvirtHeader: path } : {}),
  });
  const written = ReadableFile.open(output);
  try {
    makeReadOnly(written.fd, output);
  } finally {
    written.close();
  }
  const { machine, ramBytes, pages, fileBytes, allocatedBytes } = converted;
  return {
    path: converted.path,
    offset: 0,
    machine,
    ramBytes,
    pages,
    clearedBytes: 0,
    fileBytes,
    allocatedBytes,
  };
}

async function sealInPlace(path: string, options: SealOptions): Promise<SealResult> {
  const file = ReadableFile.open(path);
  try {
    const skeleton = openForMapping(file, options);
    // Looked at first without the right to write: a sealed file gives it to nobody.
    const stale = await findStaleBytes(file, skeleton, options);
    const clearedBytes = stale === undefined ? 0 : await clear(file, skeleton);
    // By its descriptor: the path may have another file by now, which nobody has looked at.
    makeReadOnly(file.fd, path);
    const { size, blocks } = fs.fstatSync(file.fd);
    return {
      path: file.absolutePath,
      offset: options.offset ?? 0,
      machine: skeleton.configuration.machine,
      ramBytes: skeleton.totalBytes,
      pages: countPages(file, skeleton.blocks),
      clearedBytes,
      fileBytes: size,
      allocatedBytes: blocks * 512,
    };
  } finally {
    file.close();
  }
}

/**
 * Reads the skeleton of a file whose page areas are to be mapped, and checks all of it but the pages.
 *
 * @throws FormatError for a damaged file, and for one that cannot be mapped: a stream, or page areas that begin within a page.
 */
export function openForMapping(file: ReadableFile, location: SnapshotLocation = {}): MappedRamFile {
  const { source, offset } = openSource(file, location);
  const { format, streamOffset, libvirt } = identifySnapshot(source, offset);
  const anew = "write it anew with: ramport seal FILE -o NEW";
  if (format !== "mapped-ram") {
    const what = libvirt === undefined ? "a migration stream" : `a libvirt image of format ${libvirt.format}`;
    throw new FormatError("unsupported", `This is ${what}, whose pages have no fixed places`, {
      path: file.path,
      hint: anew,
    });
  }
  const { skeleton } = readMappedRam(source, streamOffset, "nothing");
  checkPageBitmaps(file, skeleton.blocks);
  for (const { name, mapped } of skeleton.blocks) {
    if (mapped === undefined || mapped.pagesOffset % MAPPING_ALIGNMENT === 0) continue;
    throw new FormatError("unsupported", `The pages of ${printable(name)} cannot be mapped`, {
      block: name,
      expected: `an offset that is a multiple of ${MAPPING_ALIGNMENT}`,
      actual: mapped.pagesOffset,
      hint: anew,
    });
  }
  const { ramEndOffset } = skeleton;
  if (ramEndOffset !== undefined) return { ...skeleton, ramEndOffset };
  throw new FormatError("truncated", "The RAM section has no end", { path: file.path });
}

function isLibvirtImage(path: string, location: SnapshotLocation): boolean {
  const { source, offset, close } = openSource(path, location);
  try {
    return identifySnapshot(source, offset).libvirt !== undefined;
  } finally {
    close();
  }
}

async function clear(readable: ReadableFile, skeleton: MappedRamFile): Promise<number> {
  const { path } = readable;
  let fd: number;
  try {
    fd = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
  } catch (cause) {
    throw systemError("Opening", path, cause);
  }
  const file = new InPlaceFile(path, fd, { startOffset: 0, access: "both" });
  try {
    const [read, write] = [fs.fstatSync(readable.fd), fs.fstatSync(fd)];
    if (read.ino !== write.ino || read.dev !== write.dev) {
      throw new MachineError("io", `${path} was replaced by another file meanwhile`, { path });
    }
    const clearedBytes = clearStalePages(file, skeleton);
    await file.sync();
    return clearedBytes;
  } finally {
    await file.close();
  }
}

/** Takes the right to write from all; root needs none. */
function makeReadOnly(fd: number, path: string): void {
  try {
    const { mode } = fs.fstatSync(fd);
    if ((mode & 0o222) !== 0) fs.fchmodSync(fd, mode & 0o7555);
  } catch (cause) {
    throw systemError("Making read-only", path, cause);
  }
}
