import type { RandomAccessSource } from "../channels/index.js";
import type { PageIndex, PagePlaces, StreamHead } from "../engine/index.js";
import { FormatError, UsageError } from "../errors/index.js";
import type { PageRun } from "../memory/index.js";
import { RAM_SECTION } from "../wire/index.js";
import { type PayloadSource, readPayload } from "./inspect-payload.js";
import { type MigrationSkeleton, skeletonOfStream } from "./migration-skeleton.js";
import { endOfPages, OpenedSnapshot } from "./opened-snapshot.js";
import type { SnapshotBlock, SnapshotSection } from "./snapshot.js";
import type { StreamReading } from "./stream-parts.js";

/** Pages of a run stand some ten bytes apart in the file, so one read of this much gets them all. */
const READ_BYTES = 1 << 20;
/** A record's head with the longest block name: pages with more between them are read one by one. */
const LARGEST_GAP_BYTES = 512;

/** A classic migration stream in a file as a {@link Snapshot}: pages are read from where their last records are. */
export class StreamSnapshot extends OpenedSnapshot {
  readonly #source: RandomAccessSource;
  readonly #payloads: PayloadSource;
  readonly #index: PageIndex | undefined;
  readonly #reading: StreamReading;
  #buffer: Uint8Array | undefined;

  /**
   * @param index Where the pages are; undefined for a snapshot whose pages nobody will ask for.
   * @param closeSource Called once by {@link close}.
   * @param payloads Where the sections' bytes are, when the file does not hold the stream as it is.
   */
  constructor(
    source: RandomAccessSource & { readonly allocatedBytes?: number },
    streamOffset: number,
    reading: StreamReading,
    index: PageIndex | undefined,
    closeSource: () => void,
    payloads: PayloadSource = source,
  ) {
    const { head, tail, libvirt } = reading;
    super(
      {
        container: libvirt === undefined ? "qemu" : "libvirt",
        format: "stream",
        ...(libvirt === undefined ? {} : { libvirt }),
        streamOffset,
        fileBytes: source.sizeBytes,
        allocatedBytes: source.allocatedBytes,
        configuration: head.configuration ?? { machine: "", capabilities: [] },
        targetPageSize: head.pageSize,
        totalBytes: head.blocks.reduce((sum, block) => sum + block.usedLength, 0),
        blocks: describeBlocks(head, index),
        sections: reading.sections,
        description: tail?.description,
        trailingBytes: tail?.trailingBytes ?? 0,
        problems: reading.problems,
        hasPages: index !== undefined,
      },
      closeSource,
    );
    this.#source = source;
    this.#payloads = payloads;
    this.#index = index;
    this.#reading = reading;
  }

  override migrationSkeleton(): MigrationSkeleton {
    this.checkOpen();
    return skeletonOfStream(this.#reading, this.streamOffset);
  }

  presentRuns(block: SnapshotBlock): Iterable<PageRun> {
    return block.leftOut ? [] : this.#placesOf(block).runs();
  }

  countPresent(block: SnapshotBlock): number {
    let count = 0;
    for (const { start, end } of this.presentRuns(block)) count += end - start;
    return count;
  }

  readPages(block: SnapshotBlock, firstPage: number, target: Uint8Array): void {
    const places = this.#placesOf(block);
    const end = endOfPages(block, firstPage, target);
    target.fill(0);
    for (const run of places.runs(firstPage, end)) {
      for (let page = run.start; page < run.end;) {
        page += this.#readNeighbours(block, places, page, run.end, target, firstPage);
      }
    }
  }

  readSection(section: SnapshotSection): Uint8Array {
    this.checkOpen();
    return readPayload(this.#payloads, section);
  }

  /** Reads pages whose records follow each other with one call. Returns how many. */
  #readNeighbours(
    block: SnapshotBlock,
    places: PagePlaces,
    first: number,
    end: number,
    target: Uint8Array,
    targetPage: number,
  ): number {
    const { pageSize } = block;
    const start = places.get(first);
    let last = first;
    while (last + 1 < end) {
      const gap = places.get(last + 1) - places.get(last) - pageSize;
      if (gap < 0 || gap > LARGEST_GAP_BYTES || places.get(last + 1) + pageSize - start > READ_BYTES) break;
      last += 1;
    }
    const length = places.get(last) + pageSize - start;
    this.#buffer ??= new Uint8Array(READ_BYTES);
    const bytes = this.#buffer.subarray(0, length);
    if (this.#source.readAt(bytes, start) < length) {
      throw new FormatError("truncated", "The file has become shorter while it was read", {
        offset: start,
        section: RAM_SECTION.name,
        block: block.name,
      });
    }
    for (let page = first; page <= last; page++) {
      const at = places.get(page) - start;
      target.set(bytes.subarray(at, at + pageSize), (page - targetPage) * pageSize);
    }
    return last - first + 1;
  }

  #placesOf(block: SnapshotBlock): PagePlaces {
    this.checkOpen();
    if (block.leftOut) {
      throw new UsageError("The memory of a block that the source left out is not in the file", {
        block: block.name,
      });
    }
    const places = this.#index?.blocks[block.index];
    if (places === undefined)
      throw new UsageError("This snapshot was opened without its pages", { block: block.name });
    return places;
  }
}

function describeBlocks(head: StreamHead, index: PageIndex | undefined): SnapshotBlock[] {
  return head.blocks.map((block, position) => {
    const leftOut =
      index !== undefined && index.blocks[position]?.seen === false && block.guestAddress !== undefined;
    const pageCount = leftOut ? 0 : block.usedLength / head.pageSize;
    return { index: position, ...block, pageSize: head.pageSize, pageCount, leftOut };
  });
}
