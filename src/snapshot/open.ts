import {
  openCompressed,
  RangeSource,
  OutputFile,
  type RandomAccessSource,
  ReadableFile,
} from "../channels/index.js";
import { PageIndex, type ProgressListener, UnindexableError } from "../engine/index.js";
import { UsageError } from "../errors/index.js";
import { identifySnapshot, type SnapshotIdentity } from "./identify.js";
import { KeptPieces } from "./inspect-payload.js";
import { readMappedRam } from "./mapped-ram-reading.js";
import { MappedRamSnapshot } from "./mapped-ram-snapshot.js";
import type { Snapshot } from "./snapshot.js";
import { peekStream, walkStream } from "./stream-reading.js";
import { ScratchPages } from "./stream-scratch.js";
import { type StreamReading, StreamSnapshot } from "./stream-snapshot.js";
import { UnpackedSnapshot } from "./unpacked-snapshot.js";

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
 * @throws MachineError `io`; UsageError for an impossible offset.
 */
export function openSource(
  file: string | RandomAccessSource,
  { offset = 0 }: SnapshotLocation,
): { readonly source: RandomAccessSource; readonly offset: number; readonly close: () => void } {
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new UsageError("The snapshot's offset must be a whole number of bytes", { actual: String(offset) });
  }
  if (typeof file !== "string") return { source: file, offset, close: () => undefined };
  const opened = ReadableFile.open(file);
  return { source: opened, offset, close: () => opened.close() };
}

async function openStream(
  source: RandomAccessSource,
  identity: SnapshotIdentity,
  options: OpenSnapshotOptions,
  close: () => void,
): Promise<Snapshot> {
  const { streamOffset, libvirt, compression } = identity;
  const withLibvirt = (reading: StreamReading): StreamReading =>
    libvirt === undefined ? reading : { ...reading, libvirt };
  if (compression !== undefined) {
    const unpack = (): RangeSource | ReturnType<typeof openCompressed> =>
      openCompressed(source, streamOffset, compression);
    if (options.pages === false) {
      const reading = await walkStream(unpack(), 0, new PageIndex(), options);
      const payloads = new KeptPieces(reading.outsideRam ?? []);
      return new StreamSnapshot(source, streamOffset, withLibvirt(reading), undefined, close, payloads);
    }
    return openUnpacked(source, unpack, 0, identity, options, close);
  }
  const peeked = await peekStream(source, streamOffset);
  if (options.pages === false && peeked !== undefined) {
    return new StreamSnapshot(source, streamOffset, withLibvirt(peeked), undefined, close);
  }
  const walk = { ...options, ...(peeked === undefined ? {} : { targetPageSize: peeked.head.pageSize }) };
  try {
    const index = new PageIndex();
    const reading = await walkStream(new RangeSource(source, streamOffset), streamOffset, index, walk);
    return new StreamSnapshot(source, streamOffset, withLibvirt(reading), index, close);
  } catch (error) {
    if (!(error instanceof UnindexableError)) throw error;
    return await openUnpacked(
      source,
      () => new RangeSource(source, streamOffset),
      streamOffset,
      identity,
      walk,
      close,
    );
  }
}

/** Puts a stream's pages into a scratch file, where they can be read at any place. */
async function openUnpacked(
  source: RandomAccessSource,
  unpack: () => ReturnType<typeof openCompressed>,
  startOffset: number,
  identity: SnapshotIdentity,
  options: OpenSnapshotOptions,
  close: () => void,
): Promise<Snapshot> {
  const scratch = OutputFile.scratch(options.scratchFolder);
  try {
    const reading = await walkStream(unpack(), startOffset, new ScratchPages(scratch), options);
    const inner = new MappedRamSnapshot(scratch, readMappedRam(scratch, 0, "nothing"), () =>
      scratch.discard(),
    );
    return new UnpackedSnapshot(source, identity, reading, inner, close);
  } catch (error) {
    scratch.discard();
    throw error;
  }
}
