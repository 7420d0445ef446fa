import { setImmediate as nextTurn } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";

import type { RandomAccessSource } from "../channels/byte-stream.js";
import type { DirectIo } from "../channels/direct-io.js";
import { ReadableFile } from "../channels/file.js";
import { OutputFile } from "../channels/output-file.js";
import { type ProgressListener, ProgressMeter } from "../engine/progress.js";
import { MachineError, throwIfAborted } from "../errors/index.js";
import { createPageScanner, hasBit } from "../kernels/index.js";
import { type ByteRange, dataRanges } from "./data-ranges.js";
import type { SnapshotLocation } from "./open.js";
import { verifySnapshot } from "./verify.js";

/** How to copy. The offset is where the snapshot begins in the file; all of the file is copied. */
export interface CopyOptions extends SnapshotLocation {
  /** Replace an existing file. */
  readonly replace?: boolean;
  /** Whether the copy is read back and compared before it gets its name; default true. */
  readonly verify?: boolean;
  /** Whether large reads and writes of the files go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** What a copy came to: plain data, ready for JSON. */
export interface CopyResult {
  readonly path: string;
  /** Length of both files. */
  readonly bytes: number;
  /** Bytes that they take on their devices. */
  readonly allocatedBytes: { readonly source: number; readonly copy: number };
  /** Whether the copy was compared. */
  readonly verified: boolean;
  /** What was checked says of the snapshot in it: a damaged one is copied as it is. Absent when nothing was compared. */
  readonly snapshotOk?: boolean;
}

/** More than that at a time makes ext4 slow; see WriteCombiner. */
const PIECE_BYTES = 256 << 10;
/** What a hole is made of: file systems have blocks of this size, or larger ones. */
const BLOCK_BYTES = 4096;
const PIECE_BLOCKS = PIECE_BYTES / BLOCK_BYTES;

/**
 * Copies a snapshot file, whatever its container: every byte reads the same, holes stay holes, and blocks of zeros become
 * holes. cp, tar and what copies through a network tend to fill them. The copy comes into being whole or not at all.
 *
 * @throws UsageError when the output exists; FormatError when the source is no regular file; MachineError `io`, also when
 *   the copy is not the same; CancelledError. No file is left.
 */
export async function copySnapshot(
  sourcePath: string,
  outputPath: string,
  options: CopyOptions = {},
): Promise<CopyResult> {
  throwIfAborted(options.signal);
  const source = ReadableFile.open(sourcePath, { directIo: options.directIo ?? "off" });
  try {
    const output = OutputFile.create(outputPath, {
      replace: options.replace ?? false,
      directIo: options.directIo ?? "off",
    });
    try {
      await copyData(source, output, options);
      const checked = options.verify === false ? undefined : await compare(source, output, options);
      const copyBytes = output.allocatedBytes;
      await output.commit(options.signal);
      return {
        path: output.path,
        bytes: source.sizeBytes,
        allocatedBytes: { source: source.allocatedBytes, copy: copyBytes },
        verified: checked !== undefined,
        ...(checked === undefined ? {} : { snapshotOk: checked.ok }),
      };
    } finally {
      output.discard();
    }
  } finally {
    source.close();
  }
}

async function copyData(source: ReadableFile, output: OutputFile, options: CopyOptions): Promise<void> {
  const { sizeBytes } = source;
  const scanner = createPageScanner({ pageSize: BLOCK_BYTES, areaPages: PIECE_BLOCKS });
  const buffer = scanner.area(0, PIECE_BLOCKS);
  for await (const { start, end } of pieces(source, [source], "copying", options)) {
    const length = end - start;
    const blocks = Math.ceil(length / BLOCK_BYTES);
    // A file may end inside a block.
    if (length % BLOCK_BYTES !== 0) buffer.fill(0, length, blocks * BLOCK_BYTES);
    readWhole(source, buffer.subarray(0, length), start);
    const content = scanner.findContent(0, blocks);
    for (let block = 0; block < blocks; block++) {
      if (!hasBit(content, block)) continue;
      const from = block * BLOCK_BYTES;
      while (block < blocks && hasBit(content, block)) block += 1;
      output.writeAt(buffer, from, Math.min(length, block * BLOCK_BYTES) - from, start + from);
    }
  }
  // A file may end in a hole.
  output.truncate(sizeBytes);
}

/** Reads both files wherever either has data, and looks at the snapshots in them. */
async function compare(
  source: ReadableFile,
  output: OutputFile,
  options: CopyOptions,
): Promise<{ readonly ok: boolean }> {
  const original = Buffer.alloc(PIECE_BYTES);
  const copy = Buffer.alloc(PIECE_BYTES);
  for await (const { start, end } of pieces(source, [source, output], "comparing", options)) {
    const length = end - start;
    readWhole(source, original.subarray(0, length), start);
    readWhole(output, copy.subarray(0, length), start);
    if (original.compare(copy, 0, length, 0, length) !== 0) throw notTheSame(source, start);
  }
  if (output.sizeBytes !== source.sizeBytes) throw notTheSame(source, source.sizeBytes);
  const { offset = 0, signal } = options;
  const location = { offset, ...(signal === undefined ? {} : { signal }) };
  const expected = await verifySnapshot(source, location);
  const actual = await verifySnapshot(output, location);
  if (!isDeepStrictEqual(actual, expected)) throw notTheSame(source, offset);
  return { ok: expected.ok };
}

/** Ranges that any of the files holds data for, each once and in order, cut into pieces that are read at once. */
async function* pieces(
  source: ReadableFile,
  files: readonly RandomAccessSource[],
  phase: string,
  { signal, onProgress }: CopyOptions,
): AsyncGenerator<ByteRange, void, undefined> {
  const totalBytes = source.sizeBytes;
  const meter = new ProgressMeter(onProgress);
  let readBytes = 0;
  for (const range of mergedRanges(files.map((file) => dataRanges(file, 0, totalBytes)))) {
    for (let start = range.start; start < range.end; start += PIECE_BYTES) {
      // Or no signal is heard before the end.
      if (readBytes % (PIECE_BYTES * 4) === 0) await nextTurn();
      throwIfAborted(signal);
      const end = Math.min(range.end, start + PIECE_BYTES);
      yield { start, end };
      readBytes += end - start;
      meter.update(readBytes, () => ({ phase, totalBytes, remainingBytes: totalBytes - end }));
    }
  }
}

/** The union of lists of ranges that are each in order. */
function* mergedRanges(lists: readonly Iterator<ByteRange, void>[]): Generator<ByteRange, void, undefined> {
  const heads = lists.map((list) => list.next());
  let reach = 0;
  for (;;) {
    let first = -1;
    for (const [index, head] of heads.entries()) {
      const best = heads[first];
      if (head.done === true) continue;
      if (best === undefined || best.done === true || head.value.start < best.value.start) first = index;
    }
    const head = heads[first];
    const list = lists[first];
    if (head === undefined || head.done === true || list === undefined) return;
    const start = Math.max(reach, head.value.start);
    if (start < head.value.end) yield { start, end: head.value.end };
    reach = Math.max(reach, head.value.end);
    heads[first] = list.next();
  }
}

function readWhole(file: RandomAccessSource, target: Uint8Array, position: number): void {
  const count = file.readAt(target, position);
  if (count === target.length) return;
  throw new MachineError("io", "The file became shorter while it was copied", { offset: position + count });
}

function notTheSame(source: ReadableFile, offset: number): MachineError {
  return new MachineError("io", "The copy is not the same as the file", {
    offset,
    path: source.path,
    hint: "was the file written to meanwhile?",
  });
}
