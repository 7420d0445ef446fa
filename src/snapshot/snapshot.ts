import type { PageRun } from "../memory/index.js";
import type { Configuration, LibvirtFormat, StreamTail } from "../wire/index.js";

/** What wraps the migration stream of a snapshot file. */
export type SnapshotContainer = "qemu" | "libvirt";

/** How guest memory lies in a snapshot: as records one after the other, or each page at its fixed place. */
export type SnapshotFormat = "stream" | "mapped-ram";

/** A RAM block of a snapshot. */
export interface SnapshotBlock {
  /** Place in the block list, from 0. */
  readonly index: number;
  /** As the file has it: may hold any character. Use `printable()` to show it. */
  readonly name: string;
  /** Bytes. */
  readonly usedLength: number;
  /** Target page size in bytes: what {@link PageRun}s of this block count. */
  readonly pageSize: number;
  /** Pages of the block, with and without content; 0 when it was left out. */
  readonly pageCount: number;
  /** Host page size at the source, in bytes, where the file says it. */
  readonly hostPageSize?: number;
  /** Guest address, where the file says it (x-ignore-shared). */
  readonly guestAddress?: bigint;
  /** Shared memory that the source left out (x-ignore-shared): the file has nothing of it. */
  readonly leftOut: boolean;
  /** Absolute file offset of the bitmap (mapped-ram; 0 for a block that was left out). */
  readonly bitmapOffset?: number;
  /** Absolute file offset of page 0 (mapped-ram; 0 for a block that was left out). */
  readonly pagesOffset?: number;
}

/** What libvirt put in front of a snapshot. */
export interface LibvirtImage {
  /** How the stream is wrapped: `raw`, a compressor's name, or `sparse` for mapped-ram. */
  readonly format: LibvirtFormat;
  /** Name of the domain, when its XML has one. */
  readonly domain?: string;
  /** Whether the guest ran when it was saved, and is to run when it is restored. */
  readonly wasRunning: boolean;
  /** false for an image that libvirt had not finished. */
  readonly finished: boolean;
  /** The domain's XML, and libvirt's own further state. */
  readonly xml: string;
  readonly cookie?: string;
}

/** A section of the stream: a device's state, or RAM. */
export interface SnapshotSection {
  readonly id: number;
  /** As the file has it: may hold any character. */
  readonly name: string;
  readonly instance: number;
  readonly version: number;
  /** Whether it comes in parts, as RAM does. */
  readonly iterative: boolean;
  /** Absolute file offset of its first type byte. */
  readonly offset: number;
  /**
   * Bytes that belong to it, from type byte to footer; for a section in parts the sum over all of them. RAM's count its
   * block list, bitmaps and page areas with the gaps between them, but not what stands between its parts.
   */
  readonly length: number;
  /** Absolute file offset of the payload; for device sections. {@link Snapshot.readSection} reads it. */
  readonly payloadOffset?: number;
  /** Bytes of the payload; for device sections (of an iterative one, the first part's). */
  readonly payloadLength?: number;
}

/** What a snapshot says of itself: everything but the content of pages and sections. */
export interface SnapshotFacts {
  readonly container: SnapshotContainer;
  readonly format: SnapshotFormat;
  /** The header of a libvirt save image. */
  readonly libvirt?: LibvirtImage;
  /** Where the migration stream starts in the file. */
  readonly streamOffset: number;
  /** The file's length in bytes. */
  readonly fileBytes: number;
  /** Bytes that the file takes on its device, where that is known. */
  readonly allocatedBytes: number | undefined;
  readonly configuration: Configuration;
  /** Bytes. */
  readonly targetPageSize: number;
  /** Sum of the blocks' used lengths, in bytes. */
  readonly totalBytes: number;
  readonly blocks: readonly SnapshotBlock[];
  /** One for each section id, in the order in which they begin. */
  readonly sections: readonly SnapshotSection[];
  /** The vmstate description: its place in the file, its text, and what it says. */
  readonly description: StreamTail["description"];
  /** Bytes behind everything that the format knows. */
  readonly trailingBytes: number;
  /**
   * What is wrong with the file, after a tolerant opening; also that nothing tells where the device sections of a very old
   * machine type end.
   */
  readonly problems: readonly Error[];
  /** Whether pages can be asked for: a stream can be opened without them. */
  readonly hasPages: boolean;
}

/**
 * A virtual machine's saved state, whatever file it came from: configuration, RAM blocks with the pages that have
 * content, and device sections.
 *
 * Pages that are in no present run are zero.
 */
export interface Snapshot extends SnapshotFacts {
  /**
   * Ranges of pages that have content, in order, neighbours joined.
   *
   * @throws FormatError when the file has become shorter; MachineError `io`; UsageError after {@link close}.
   */
  presentRuns(block: SnapshotBlock): Iterable<PageRun>;
  /** How many of the block's pages have content. Throws as {@link presentRuns} does. */
  countPresent(block: SnapshotBlock): number;
  /**
   * Reads the content of pages, from page `firstPage` on as many as `target` has room for; those without content come out
   * as zeros, so the target's old bytes do not matter.
   *
   * @param target Its length is a multiple of the block's page size. Large ones (1 MiB) are what makes reading fast.
   * @throws UsageError for pages that the block does not have, a block that was left out, or after {@link close};
   *   FormatError when the file has become shorter; MachineError `io`.
   */
  readPages(block: SnapshotBlock, firstPage: number, target: Uint8Array): void;
  /**
   * Reads the payload of a device's section; of an iterative one, its first part's.
   *
   * @throws UsageError for the RAM section, or after {@link close}; FormatError when the file ends inside it; MachineError
   *   `io`.
   */
  readSection(section: SnapshotSection): Uint8Array;
  /** Closes the file, when the snapshot was opened by its path. Closing twice is fine. */
  close(): void;
}
