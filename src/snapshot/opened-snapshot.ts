import { UsageError } from "../errors/index.js";
import type { PageRun } from "../memory/index.js";
import type { MigrationSkeleton } from "./migration-skeleton.js";
import type { Snapshot, SnapshotBlock, SnapshotFacts, SnapshotSection } from "./snapshot.js";

/** What all snapshots have in common, whatever they read their pages from: their facts, and that they are closed once. */
export abstract class OpenedSnapshot implements Snapshot {
  readonly container: Snapshot["container"];
  readonly format: Snapshot["format"];
  readonly libvirt?: NonNullable<Snapshot["libvirt"]>;
  readonly streamOffset: number;
  readonly fileBytes: number;
  readonly allocatedBytes: number | undefined;
  readonly configuration: Snapshot["configuration"];
  readonly targetPageSize: number;
  readonly totalBytes: number;
  readonly blocks: readonly SnapshotBlock[];
  readonly sections: readonly SnapshotSection[];
  readonly description: Snapshot["description"];
  readonly trailingBytes: number;
  readonly problems: readonly Error[];
  readonly hasPages: boolean;
  readonly #closeSource: () => void;
  #closed = false;

  /** @param closeSource Called once by {@link close}. */
  protected constructor(facts: SnapshotFacts, closeSource: () => void) {
    this.#closeSource = closeSource;
    this.container = facts.container;
    this.format = facts.format;
    if (facts.libvirt !== undefined) this.libvirt = facts.libvirt;
    this.streamOffset = facts.streamOffset;
    this.fileBytes = facts.fileBytes;
    this.allocatedBytes = facts.allocatedBytes;
    this.configuration = facts.configuration;
    this.targetPageSize = facts.targetPageSize;
    this.totalBytes = facts.totalBytes;
    this.blocks = facts.blocks;
    this.sections = facts.sections;
    this.description = facts.description;
    this.trailingBytes = facts.trailingBytes;
    this.problems = facts.problems;
    this.hasPages = facts.hasPages;
  }

  abstract presentRuns(block: SnapshotBlock): Iterable<PageRun>;
  abstract countPresent(block: SnapshotBlock): number;
  abstract readPages(block: SnapshotBlock, firstPage: number, target: Uint8Array): void;
  abstract readSection(section: SnapshotSection): Uint8Array;
  /**
   * What a guest is loaded from beside its pages.
   *
   * @throws FormatError `unsupported` for a stream that does not say enough of itself; UsageError after {@link close}.
   */
  abstract migrationSkeleton(): MigrationSkeleton;

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#closeSource();
  }

  /** @throws UsageError after {@link close}. */
  protected checkOpen(): void {
    if (this.#closed) throw new UsageError("The snapshot is closed");
  }
}

/**
 * The page behind the last one that `target` has room for.
 *
 * @throws UsageError for pages that the block does not have.
 */
export function endOfPages(block: SnapshotBlock, firstPage: number, target: Uint8Array): number {
  const { name, pageSize, pageCount } = block;
  const end = firstPage + target.length / pageSize;
  if (Number.isSafeInteger(firstPage) && Number.isInteger(end) && firstPage >= 0 && end <= pageCount)
    return end;
  throw new UsageError("These pages are not in the block", {
    block: name,
    expected: `whole pages of ${pageSize} bytes within ${pageCount}`,
    actual: `${target.length} bytes from page ${firstPage} on`,
  });
}

/**
 * What a guest is loaded from beside the snapshot's pages.
 *
 * @throws FormatError as `migrationSkeleton` does; UsageError for a snapshot that `openSnapshot` did not make.
 */
export function migrationSkeletonOf(snapshot: Snapshot): MigrationSkeleton {
  if (snapshot instanceof OpenedSnapshot) return snapshot.migrationSkeleton();
  throw new UsageError("Only a snapshot that was opened by openSnapshot can be loaded");
}
