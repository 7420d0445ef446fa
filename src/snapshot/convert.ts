import path from "node:path";

import type { ByteSink, RandomAccessSource } from "../channels/byte-stream.js";
import type { DirectIo } from "../channels/direct-io.js";
import { ReadableFile } from "../channels/file.js";
import { OutputFile } from "../channels/output-file.js";
import { RangeSource } from "../channels/range-source.js";
import { Turns } from "../engine/breathe.js";
import { PageIndex } from "../engine/incoming/page-index.js";
import { countPages } from "../engine/mapped-ram/bitmaps.js";
import { type MappedRamFile, openMappedRam } from "../engine/mapped-ram/open.js";
import type { PositionedFile } from "../engine/mapped-ram/positioned-file.js";
import { MappedRamWriter } from "../engine/mapped-ram/writer.js";
import { sendMappedRam } from "../engine/outgoing/send.js";
import type { ProgressListener } from "../engine/progress.js";
import { FileCursor } from "../engine/mapped-ram/file-cursor.js";
import { CancelledError, throwIfAborted, UsageError } from "../errors/index.js";
import { decodeLibvirtSaveHeader, encodeLibvirtSaveHeader } from "../wire/index.js";
import {
  type ConvertedFrom,
  type ConvertInput,
  type ConvertOrigin,
  leftOutOf,
  listenAs,
  openOrigin,
  readOrigin,
} from "./convert-input.js";
import { readMappedRam } from "./mapped-ram-reading.js";
import type { SnapshotLocation } from "./open.js";
import type { SnapshotContainer, SnapshotFormat } from "./snapshot.js";
import { peekStream, walkStream } from "./stream-reading.js";

/** How to convert. */
export interface ConvertOptions extends SnapshotLocation {
  readonly to: SnapshotFormat;
  /** Replace an existing file. */
  readonly replace?: boolean;
  /** Where in the output the snapshot is to begin, in bytes; what is before it is a hole. 0 when not given. */
  readonly outputOffset?: number;
  /**
   * A libvirt save image whose domain XML and further state go in front of the result: a stream becomes a `raw` image, a
   * mapped-ram file a `sparse` one.
   */
  readonly libvirtHeader?: string;
  /** Bytes; for guests whose target page is not 4096 bytes and whose stream does not say so. */
  readonly targetPageSize?: number;
  /** Whether large reads and writes of the files go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** A converted snapshot: plain data, ready for JSON. Sizes and offsets are bytes. */
export interface ConvertResult {
  readonly path: string;
  readonly from: ConvertedFrom;
  readonly to: { readonly container: SnapshotContainer; readonly format: SnapshotFormat };
  /** Where the migration stream starts in the new file. */
  readonly streamOffset: number;
  readonly machine: string;
  readonly ramBytes: number;
  readonly pages: { readonly normal: number; readonly zero: number };
  readonly fileBytes: number;
  /** What the file takes on its device. */
  readonly allocatedBytes: number;
}

/**
 * Writes a snapshot in another form, or the same form anew: each page once, and nothing of what pages held before. What
 * is around the pages stays byte for byte, but for the capability that mapped-ram files name in their configuration and
 * description. The file comes into being whole or not at all, and is read back first.
 *
 * A stream goes into a mapped-ram file in one pass; one that leaves shared RAM out (x-ignore-shared) in two, so it cannot
 * come from a pipe. A stream goes into a stream by way of a scratch file beside the output.
 *
 * @throws UsageError when the output exists; FormatError for a bad source; MachineError; CancelledError. No file is left.
 */
export async function convertSnapshot(
  input: ConvertInput,
  outputPath: string,
  options: ConvertOptions,
): Promise<ConvertResult> {
  throwIfAborted(options.signal);
  const { libvirtHeader } = options;
  const header = libvirtHeader === undefined ? undefined : readLibvirtHeader(libvirtHeader, options);
  const streamOffset = header?.length ?? checkedOutputOffset(options);
  const output = OutputFile.create(outputPath, {
    replace: options.replace ?? false,
    directIo: options.directIo ?? "off",
  });
  try {
    const origin = await openOrigin(input, options);
    try {
      if (header !== undefined) output.writeAt(header, 0, header.length, 0);
      const written =
        options.to === "mapped-ram"
          ? await convertToMappedRam(origin, output, streamOffset, options)
          : await convertToStream(origin, output, streamOffset, options);
      const { sizeBytes: fileBytes, allocatedBytes } = output;
      await output.commit(options.signal);
      return {
        path: output.path,
        from: origin.from,
        to: { container: header === undefined ? "qemu" : "libvirt", format: options.to },
        streamOffset,
        ...written,
        fileBytes,
        allocatedBytes,
      };
    } finally {
      origin.close();
    }
  } finally {
    output.discard();
  }
}

type Written = Pick<ConvertResult, "machine" | "ramBytes" | "pages">;

async function convertToMappedRam(
  origin: ConvertOrigin,
  output: OutputFile,
  streamOffset: number,
  options: ConvertOptions,
): Promise<Written> {
  const skeleton = await writeMappedRam(origin, output, streamOffset, options, "converting");
  // Read back what a loader will read, and the description against the sections.
  readMappedRam(output, streamOffset, "nothing");
  return {
    machine: skeleton.configuration.machine,
    ramBytes: skeleton.totalBytes,
    pages: countPages(output, skeleton.blocks),
  };
}

async function convertToStream(
  origin: ConvertOrigin,
  output: OutputFile,
  streamOffset: number,
  options: ConvertOptions,
): Promise<Written> {
  if (origin.kind === "mapped-ram")
    return sendInto(output, streamOffset, origin.file, origin.skeleton, options);
  const scratch = OutputFile.scratch(path.dirname(output.path));
  try {
    const skeleton = await writeMappedRam(origin, scratch, 0, options, "reading");
    return await sendInto(output, streamOffset, scratch, skeleton, options);
  } finally {
    scratch.discard();
  }
}

/** Puts the pages of whatever source into a mapped-ram file; returns its skeleton as read back. */
async function writeMappedRam(
  origin: ConvertOrigin,
  target: PositionedFile,
  startOffset: number,
  options: ConvertOptions,
  phase: string,
): Promise<MappedRamFile> {
  const leftOut = leftOutOf(origin);
  const writer = new MappedRamWriter(target, { startOffset, ...(leftOut === undefined ? {} : { leftOut }) });
  await readOrigin(origin, writer, phase, options);
  return openMappedRam(target, startOffset);
}

async function sendInto(
  output: OutputFile,
  streamOffset: number,
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  { signal, onProgress }: ConvertOptions,
): Promise<Written> {
  const { pages } = await sendMappedRam(file, skeleton, new FileSink(output, streamOffset), {
    ...(signal === undefined ? {} : { signal }),
    ...listenAs("converting", undefined, onProgress),
  });
  // Read back head and tail; without a description the end cannot be found from behind.
  if ((await peekStream(output, streamOffset)) === undefined) {
    await walkStream(new RangeSource(output, streamOffset), streamOffset, new PageIndex(), {
      targetPageSize: skeleton.pageSize,
      ...(signal === undefined ? {} : { signal }),
    });
  }
  return { machine: skeleton.configuration.machine, ramBytes: skeleton.totalBytes, pages };
}

function checkedOutputOffset({ outputOffset = 0 }: ConvertOptions): number {
  if (Number.isSafeInteger(outputOffset) && outputOffset >= 0) return outputOffset;
  throw new UsageError("The output's offset must be a whole number of bytes", {
    actual: String(outputOffset),
  });
}

/** The header of another libvirt image, as it has to be in front of the result. */
function readLibvirtHeader(image: string, options: ConvertOptions): Uint8Array {
  if (checkedOutputOffset(options) > 0) {
    throw new UsageError("A libvirt save image begins at its file's first byte", {
      hint: "leave the output's offset out",
    });
  }
  const file = ReadableFile.open(image);
  try {
    const { byteOrder, version, wasRunning, dataBytes, xml, cookie } = new FileCursor(file, 0).parse(
      decodeLibvirtSaveHeader,
    );
    return encodeLibvirtSaveHeader({
      byteOrder,
      complete: true,
      version,
      wasRunning,
      format: options.to === "stream" ? "raw" : "sparse",
      // The same room: its user can edit the XML as before.
      dataBytes,
      xml,
      ...(cookie === undefined ? {} : { cookie }),
    });
  } finally {
    file.close();
  }
}

/** Appends to a file, with a turn of the event loop now and then: signals are heard in between. */
class FileSink implements ByteSink {
  readonly #file: PositionedFile;
  #position: number;
  #closed = false;
  readonly #turns = new Turns();

  constructor(file: PositionedFile, position: number) {
    this.#file = file;
    this.#position = position;
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#turns.isDue) await this.#turns.take();
    if (this.#closed) throw new CancelledError();
    this.#file.writeAt(bytes, 0, bytes.length, this.#position);
    this.#position += bytes.length;
  }

  end(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }
}
