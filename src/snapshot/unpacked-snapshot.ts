import type { RandomAccessSource } from "../channels/index.js";
import type { PageRun } from "../memory/index.js";
import type { SnapshotIdentity } from "./identify.js";
import { KeptPieces, readPayload } from "./inspect-payload.js";
import { type MigrationSkeleton, skeletonOfStream } from "./migration-skeleton.js";
import { OpenedSnapshot } from "./opened-snapshot.js";
import type { Snapshot, SnapshotBlock, SnapshotSection } from "./snapshot.js";
import type { StreamReading } from "./stream-parts.js";

/**
 * A stream whose pages are not in its file as they are: they were unpacked into another snapshot. Offsets of sections are
 * those of the unpacked stream.
 */
export class UnpackedSnapshot extends OpenedSnapshot {
  readonly #pages: Snapshot;
  readonly #reading: StreamReading;
  readonly #payloads: KeptPieces;
  readonly #inner: ReadonlyMap<SnapshotBlock, SnapshotBlock>;

  /** @param pages Has the same blocks; closed with this one. */
  constructor(
    source: RandomAccessSource & { readonly allocatedBytes?: number },
    identity: SnapshotIdentity,
    reading: StreamReading,
    pages: Snapshot,
    closeSource: () => void,
  ) {
    // Places in the scratch file are nobody's business.
    const pairs = pages.blocks.map((inner): [SnapshotBlock, SnapshotBlock] => {
      const { index, name, usedLength, pageSize, pageCount, leftOut } = inner;
      const { hostPageSize } = reading.head.blocks[index] ?? {};
      const outer = { index, name, usedLength, pageSize, pageCount, leftOut };
      return [{ ...outer, ...(hostPageSize === undefined ? {} : { hostPageSize }) }, inner];
    });
    super(
      {
        container: identity.container,
        format: "stream",
        ...(identity.libvirt === undefined ? {} : { libvirt: identity.libvirt }),
        streamOffset: identity.streamOffset,
        fileBytes: source.sizeBytes,
        allocatedBytes: source.allocatedBytes,
        configuration: reading.head.configuration ?? { machine: "", capabilities: [] },
        targetPageSize: pages.targetPageSize,
        totalBytes: pages.totalBytes,
        blocks: pairs.map(([block]) => block),
        sections: reading.sections,
        description: reading.tail?.description,
        trailingBytes: reading.tail?.trailingBytes ?? 0,
        problems: reading.problems,
        hasPages: true,
      },
      () => {
        pages.close();
        closeSource();
      },
    );
    this.#pages = pages;
    this.#reading = reading;
    this.#payloads = new KeptPieces(reading.outsideRam ?? []);
    this.#inner = new Map(pairs);
  }

  presentRuns(block: SnapshotBlock): Iterable<PageRun> {
    return this.#pages.presentRuns(this.#innerOf(block));
  }

  countPresent(block: SnapshotBlock): number {
    return this.#pages.countPresent(this.#innerOf(block));
  }

  readPages(block: SnapshotBlock, firstPage: number, target: Uint8Array): void {
    this.#pages.readPages(this.#innerOf(block), firstPage, target);
  }

  readSection(section: SnapshotSection): Uint8Array {
    this.checkOpen();
    return readPayload(this.#payloads, section);
  }

  override migrationSkeleton(): MigrationSkeleton {
    this.checkOpen();
    return skeletonOfStream(this.#reading, this.streamOffset);
  }

  #innerOf(block: SnapshotBlock): SnapshotBlock {
    return this.#inner.get(block) ?? block;
  }
}
