import type { OverlappedReader, RandomAccessSource } from "../../channels/index.js";
import type { PageBitmap } from "../../memory/index.js";
import { InFlight } from "../in-flight.js";
import { clearPages, eachPiece } from "../ram-block.js";

/** Largest read. */
const REQUEST_BYTES = 4 << 20;
/**
 * Zero pages between two runs that are read along with them, and cleared again: a read more costs what reading so many bytes
 * does. Guest memory that would have stayed untouched is touched by it, at most so much for each page with content.
 */
const GAP_BYTES = 32 << 10;
/** Less than this is read at once, in this thread: handing it to another one costs more. */
const LEAST_OVERLAPPED_BYTES = 64 << 10;

/** A file that is read at any place, also beside this thread. */
export type OverlappedFile = RandomAccessSource & OverlappedReader;

/** One block, and where it comes from. */
export interface BlockSource {
  readonly pagesOffset: number;
  readonly pageSize: number;
  /** Pages that have content; the others become zero. */
  readonly present: PageBitmap;
  /** The guest's memory. */
  segments(): readonly Uint8Array[];
  /** @throws FormatError: the file ends at `offset`, inside a page. */
  failAtEnd(offset: number): never;
}

/** Fills blocks of a guest that stands still, so many reads at a time; each goes straight to the guest's memory. */
export class OverlappedLoad {
  readonly #file: OverlappedFile;
  readonly #reads: InFlight;
  readonly #afterSlice: (contentBytes: number) => Promise<void>;
  #sliceBytes = 0;

  /**
   * @param channels How many reads are in flight.
   * @param afterSlice Called after some MiB: gets the bytes of pages with content since the last time. The event loop has a
   *   turn in it.
   */
  constructor(file: OverlappedFile, channels: number, afterSlice: (contentBytes: number) => Promise<void>) {
    this.#file = file;
    this.#reads = new InFlight(channels);
    this.#afterSlice = afterSlice;
  }

  /**
   * Fills one block; reads may go on when it returns, until {@link settle}.
   *
   * @throws FormatError where the file ends inside a page; MachineError `io`; what `afterSlice` throws. Nothing is in flight
   *   any more then.
   */
  async fill(block: BlockSource): Promise<void> {
    try {
      await this.#fill(block);
    } catch (error) {
      await this.settle().catch(() => undefined);
      throw error;
    }
  }

  /**
   * Waits until nothing is in flight.
   *
   * @throws What the first read that failed did.
   */
  async settle(): Promise<void> {
    await this.#reads.drain();
  }

  async #fill(block: BlockSource): Promise<void> {
    const { present, pageSize } = block;
    let done = 0;
    for (const { start, end } of joinedRuns(present, GAP_BYTES / pageSize)) {
      clearPages(block.segments(), [{ start: done, end: start }], pageSize);
      for (let at = start * pageSize; at < end * pageSize; at += REQUEST_BYTES) {
        await this.#read(block, at, Math.min(REQUEST_BYTES, end * pageSize - at));
      }
      done = end;
    }
    clearPages(block.segments(), [{ start: done, end: present.pageCount }], pageSize);
  }

  async #read(block: BlockSource, address: number, length: number): Promise<void> {
    const pieces: { readonly bytes: Uint8Array; readonly at: number }[] = [];
    eachPiece(block.segments(), address, length, REQUEST_BYTES, (bytes, at) => pieces.push({ bytes, at }));
    for (const { bytes, at } of pieces) {
      const position = block.pagesOffset + at;
      if (bytes.length < LEAST_OVERLAPPED_BYTES) {
        finish(block, bytes, at, this.#file.readAt(bytes, position));
      } else {
        await this.#reads.start(async () =>
          finish(block, bytes, at, await this.#file.startRead(bytes, position)),
        );
      }
    }
    this.#sliceBytes += length;
    if (this.#sliceBytes < REQUEST_BYTES) return;
    await this.#afterSlice(this.#sliceBytes);
    this.#sliceBytes = 0;
  }
}

/** Checks that all was there, and clears what was read between pages with content. */
function finish(block: BlockSource, bytes: Uint8Array, address: number, count: number): void {
  const { present, pageSize } = block;
  if (count < bytes.length) block.failAtEnd(block.pagesOffset + address + count);
  const first = address / pageSize;
  const end = first + bytes.length / pageSize;
  for (let page = present.nextClear(first); page < end;) {
    const next = Math.min(present.nextSet(page), end);
    bytes.fill(0, (page - first) * pageSize, (next - first) * pageSize);
    page = present.nextClear(next);
  }
}

/** Runs of pages with content; those with at most `gap` others between them are one. */
function* joinedRuns(
  present: PageBitmap,
  gap: number,
): Generator<{ start: number; end: number }, void, undefined> {
  let start = present.nextSet(0);
  while (start < present.pageCount) {
    let end = present.nextClear(start);
    let next = present.nextSet(end);
    while (next < present.pageCount && next - end <= gap) {
      end = present.nextClear(next);
      next = present.nextSet(end);
    }
    yield { start, end };
    start = next;
  }
}
