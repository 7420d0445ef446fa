import type { RandomAccessSource } from "../../channels/index.js";
import { isZero } from "../../memory/index.js";
import { Turns } from "../breathe.js";
import { type ProgressListener, ProgressMeter } from "../progress.js";
import { readPageBitmap } from "./bitmaps.js";
import type { MappedRamBlock, MappedRamFile } from "./open.js";
import type { PositionedFile } from "./positioned-file.js";

const READ_BYTES = 1 << 20;

/** A file that says where it holds data, so that holes need not be read. */
export interface SparseSource extends RandomAccessSource {
  /** The first range at or after `offset` that holds data, cut at `end`; undefined when only a hole is left. */
  nextDataRange(offset: number, end: number): { start: number; end: number } | undefined;
}

/** The same, to be written too. */
export interface StalePageFile extends PositionedFile, SparseSource {}

/** How to look for old bytes. */
export interface FindStaleOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** Old bytes of pages that count as zero. */
export interface StaleBytes {
  readonly block: string;
  /** Where in the file they begin. */
  readonly offset: number;
}

/**
 * Makes the places of zero pages read as zero. QEMU's own file of a running guest keeps the bytes of pages that were
 * written and became zero later; a loader ignores them, but whoever maps or copies the file would see them.
 *
 * @returns How many bytes were cleared.
 */
export function clearStalePages(file: StalePageFile, skeleton: Pick<MappedRamFile, "blocks">): number {
  let clearedBytes = 0;
  for (const { start, end } of stalePieces(file, skeleton.blocks)) {
    file.zeroAt(start, end - start);
    clearedBytes += end - start;
  }
  return clearedBytes;
}

/**
 * Looks for bytes in the places of zero pages: with none, the page areas of the file are the guest's memory as they are.
 * It asks the file system for the ranges that hold data, and reads of them only what lies where pages are zero.
 *
 * @returns The first such bytes, to within 1 MiB; undefined when there are none.
 * @throws FormatError when the file ends inside a bitmap; CancelledError.
 */
export async function findStaleBytes(
  file: SparseSource,
  skeleton: Pick<MappedRamFile, "blocks" | "totalBytes">,
  { signal, onProgress }: FindStaleOptions = {},
): Promise<StaleBytes | undefined> {
  const { totalBytes } = skeleton;
  const turns = new Turns(signal);
  const meter = new ProgressMeter(onProgress);
  let behind = 0;
  const buffer = new Uint8Array(READ_BYTES);
  for (const block of skeleton.blocks) {
    for (const piece of suspectPieces(file, block)) {
      if (holdsContent(file, piece, buffer)) return { block: block.name, offset: piece.start };
      const doneBytes = behind + piece.end - (block.mapped?.pagesOffset ?? 0);
      meter.update(doneBytes, () => ({
        phase: "checking",
        totalBytes,
        remainingBytes: totalBytes - doneBytes,
      }));
      if (turns.isDue) await turns.take();
    }
    behind += block.usedLength;
  }
  return undefined;
}

interface Piece {
  readonly start: number;
  readonly end: number;
}

function* stalePieces(file: SparseSource, blocks: readonly MappedRamBlock[]): Generator<Piece> {
  const buffer = new Uint8Array(READ_BYTES);
  for (const block of blocks) {
    for (const piece of suspectPieces(file, block)) if (holdsContent(file, piece, buffer)) yield piece;
  }
}

/** Where the file system holds data and the bitmap says zero, in pieces of at most what is read at once. */
function* suspectPieces(file: SparseSource, block: MappedRamBlock): Generator<Piece> {
  const { mapped, usedLength } = block;
  if (mapped === undefined) return;
  const { pagesOffset, pageSize } = mapped;
  const bitmap = readPageBitmap(file, block);
  const end = pagesOffset + usedLength;
  // By the ranges of data, not by those of zero pages: a guest has fewer of them, and each costs a system call.
  for (let data = file.nextDataRange(pagesOffset, end); data !== undefined;) {
    for (let at = data.start; at < data.end;) {
      const page = Math.floor((at - pagesOffset) / pageSize);
      const clear = bitmap.nextClear(page);
      const from = Math.max(at, pagesOffset + clear * pageSize);
      const to = Math.min(data.end, pagesOffset + bitmap.nextSet(clear) * pageSize);
      for (let start = from; start < to; start += READ_BYTES) {
        yield { start, end: Math.min(to, start + READ_BYTES) };
      }
      at = Math.max(from, to);
    }
    data = file.nextDataRange(data.end, end);
  }
}

function holdsContent(file: RandomAccessSource, { start, end }: Piece, buffer: Uint8Array): boolean {
  file.readAt(buffer.subarray(0, end - start), start);
  return !isZero(buffer, 0, end - start);
}
