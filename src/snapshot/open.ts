import type { RandomAccessSource } from "../channels/byte-stream.js";
import { ReadableFile, type ReadableFileOptions } from "../channels/file.js";
import type { ProgressListener } from "../engine/progress.js";
import { UsageError } from "../errors/index.js";
import { identifySnapshot, type SnapshotIdentity } from "./identify.js";
import { readMappedRam } from "./mapped-ram-reading.js";
import { MappedRamSnapshot } from "./mapped-ram-snapshot.js";
import type { Snapshot } from "./snapshot.js";
import { peekStream } from "./stream-reading.js";
import { StreamSnapshot } from "./stream-snapshot.js";

/** Where a snapshot starts. */
export interface SnapshotLocation {
  /** Offset of the snapshot in the file, in bytes: the N of QEMU's `file:PATH,offset=N`. 0 when not given. */
  readonly offset?: number;
}

/** How to open a snapshot. */
export interface OpenSnapshotOptions extends SnapshotLocation {
  /**
   * Open a file whose device state or description is damaged, when its RAM blocks are sound: memory is then readable, and
   * `problems` says what is wrong. Without it such a file is refused.
   */
  readonly tolerant?: boolean;
  /**
   * false when no page will be read: of a stream then only the head and the tail are, which takes the same time whatever
   * its size. Compressed files are walked in any case.
   */
  readonly pages?: boolean;
  /** Folder for what has to be unpacked to be read at any place; the system's folder for temporary files by default. */
  readonly scratchFolder?: string;
  readonly signal?: AbortSignal;
  /** Called while a stream is walked. */
  readonly onProgress?: ProgressListener;
}

/**
 * Opens a snapshot file, whatever its container.
 *
 * A mapped-ram file is read where it is. A stream is walked once to note where its pages are; what is compressed, or holds
 * pages as differences, is unpacked into a temporary file without a name.
 *
 * @param file A path, or an open file: that one stays the caller's, who closes it after the snapshot.
 * @throws FormatError when it is no snapshot or is damaged; MachineError `io`, or `not-capable` when a program to unpack it
 *   is missing; UsageError for an impossible offset; CancelledError.
 */
export async function openSnapshot(
  file: string | RandomAccessSource,
  options: OpenSnapshotOptions = {},
): Promise<Snapshot> {
  const { source, offset, close } = openSource(file, options);
  try {
    const identity = identifySnapshot(source, offset);
    if (identity.format === "mapped-ram") {
      const reading = readMappedRam(
        source,
        identity.streamOffset,
        options.tolerant === true ? "tail" : "nothing",
      );
      return new MappedRamSnapshot(source, reading, close, identity.libvirt);
    }
    return await openStream(source, identity, options, close);
  } catch (error) {
    close();
    throw error;
  }
}

/**
 * The file to read from, and how to close it: only what was opened here is.
 *
 * @throws MachineError `io`, and `not-capable` when direct I/O is required and the file system does not have it; UsageError
 *   for an impossible offset.
 */
export function openSource(
  file: string | RandomAccessSource,
  { offset = 0, directIo = "off" }: SnapshotLocation & ReadableFileOptions,
): { readonly source: RandomAccessSource; readonly offset: number; readonly close: () => void } {
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new UsageError("The snapshot's offset must be a whole number of bytes", { actual: String(offset) });
  }
  if (typeof file !== "string") return { source: file, offset, close: () => undefined };
  const opened = ReadableFile.open(file, { directIo });
  return { source: opened, offset, close: () => opened.close() };
}

async function openStream(
  source: RandomAccessSource,
  identity: SnapshotIdentity,
  options: OpenSnapshotOptions,
  close: () => void,
): Promise<Snapshot> {
  const { streamOffset, libvirt, compression } = identity;
  const peeked = compression === undefined ? await peekStream(source, streamOffset) : undefined;
  if (options.pages === false && peeked !== undefined) {
    const reading = libvirt === undefined ? peeked : { ...peeked, libvirt };
    return new StreamSnapshot(source, streamOffset, reading, undefined, close);
  }
  // Loaded when it is needed: who only wants to see devices does not wait for what unpacks and indexes streams.
  const { openWalked } = await import("./open-walked.js");
  const walk = { ...options, ...(peeked === undefined ? {} : { targetPageSize: peeked.head.pageSize }) };
  return await openWalked(source, identity, walk, close);
}
