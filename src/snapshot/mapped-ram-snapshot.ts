import type { RandomAccessSource } from "../channels/index.js";
import type { MappedRamBlock } from "../engine/mapped-ram/open.js";
import { readInFull } from "../engine/read-in-full.js";
import { assert, FormatError, UsageError } from "../errors/index.js";
import type { PageRun } from "../memory/index.js";
import { RAM_SECTION } from "../wire/index.js";
import { readPayload } from "./inspect-payload.js";
import type { MappedRamReading } from "./mapped-ram-reading.js";
import type { MigrationSkeleton } from "./migration-skeleton.js";
import { PagePresence } from "./page-presence.js";
import { endOfPages, OpenedSnapshot } from "./opened-snapshot.js";
import type { LibvirtImage, SnapshotBlock, SnapshotSection } from "./snapshot.js";

/** A mapped-ram file as a {@link Snapshot}: pages are read from their places, bitmaps piece by piece. */
export class MappedRamSnapshot extends OpenedSnapshot {
  readonly #source: RandomAccessSource;
  readonly #skeleton: MappedRamReading["skeleton"];
  readonly #presence = new Map<SnapshotBlock, PagePresence>();

  /** @param closeSource Called once by {@link close}: does nothing when the source belongs to the caller. */
  constructor(
    source: RandomAccessSource,
    reading: MappedRamReading,
    closeSource: () => void,
    libvirt?: LibvirtImage,
  ) {
    const { skeleton, tail, sections, problems } = reading;
    super(
      {
        container: libvirt === undefined ? "qemu" : "libvirt",
        format: "mapped-ram",
        ...(libvirt === undefined ? {} : { libvirt }),
        streamOffset: skeleton.streamOffset,
        fileBytes: source.sizeBytes,
        allocatedBytes: allocatedBytesOf(source),
        configuration: skeleton.configuration,
        targetPageSize: skeleton.pageSize,
        totalBytes: skeleton.totalBytes,
        blocks: skeleton.blocks.map((block, index) => describeBlock(block, index, skeleton.pageSize)),
        sections,
        description: tail?.description,
        trailingBytes: tail?.trailingBytes ?? 0,
        problems,
        hasPages: true,
      },
      closeSource,
    );
    this.#source = source;
    this.#skeleton = skeleton;
  }

  presentRuns(block: SnapshotBlock): Iterable<PageRun> {
    this.checkOpen();
    return this.#presenceOf(block)?.runs() ?? [];
  }

  countPresent(block: SnapshotBlock): number {
    this.checkOpen();
    return this.#presenceOf(block)?.count().pages ?? 0;
  }

  readPages(block: SnapshotBlock, firstPage: number, target: Uint8Array): void {
    this.checkOpen();
    const { pageSize, pagesOffset, name } = block;
    const presence = this.#presenceOf(block);
    if (presence === undefined || pagesOffset === undefined) {
      throw new UsageError("The memory of a block that the source left out is not in the file", {
        block: name,
        hint: "it is shared memory, and x-ignore-shared was on",
      });
    }
    const end = endOfPages(block, firstPage, target);
    let page = firstPage;
    for (const run of presence.runs(firstPage, end)) {
      target.fill(0, (page - firstPage) * pageSize, (run.start - firstPage) * pageSize);
      const part = target.subarray((run.start - firstPage) * pageSize, (run.end - firstPage) * pageSize);
      this.#read(part, pagesOffset + run.start * pageSize, name);
      page = run.end;
    }
    target.fill(0, (page - firstPage) * pageSize);
  }

  readSection(section: SnapshotSection): Uint8Array {
    this.checkOpen();
    return readPayload(this.#source, section);
  }

  override migrationSkeleton(): MigrationSkeleton {
    this.checkOpen();
    const { ramEndOffset } = this.#skeleton;
    if (ramEndOffset === undefined) {
      throw new FormatError("inconsistent", "The end of the RAM section was not found: the file is damaged");
    }
    return { file: this.#source, skeleton: { ...this.#skeleton, ramEndOffset } };
  }

  #presenceOf(block: SnapshotBlock): PagePresence | undefined {
    const known = this.#presence.get(block);
    if (known !== undefined) return known;
    assert(this.blocks[block.index] === block, "a block of another snapshot");
    if (block.leftOut || block.bitmapOffset === undefined) return undefined;
    const presence = new PagePresence(this.#source, block.name, block.bitmapOffset, block.pageCount);
    this.#presence.set(block, presence);
    return presence;
  }

  #read(target: Uint8Array, position: number, block: string): void {
    readInFull(this.#source, target, position, "The file ends inside a block's pages", {
      section: RAM_SECTION.name,
      block,
    });
  }
}

function describeBlock(block: MappedRamBlock, index: number, targetPageSize: number): SnapshotBlock {
  const { name, usedLength, hostPageSize, guestAddress, mapped } = block;
  const pageSize = mapped?.pageSize ?? targetPageSize;
  return {
    index,
    name,
    usedLength,
    pageSize,
    pageCount: mapped === undefined ? 0 : usedLength / pageSize,
    ...(hostPageSize === undefined ? {} : { hostPageSize }),
    ...(guestAddress === undefined ? {} : { guestAddress }),
    leftOut: mapped === undefined,
    bitmapOffset: mapped?.bitmapOffset ?? 0,
    pagesOffset: mapped?.pagesOffset ?? 0,
  };
}

function allocatedBytesOf(source: RandomAccessSource): number | undefined {
  return "allocatedBytes" in source && typeof source.allocatedBytes === "number"
    ? source.allocatedBytes
    : undefined;
}
