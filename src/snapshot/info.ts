import type { RandomAccessSource } from "../channels/index.js";
import { formatUuid, QEMU_VM_FILE_VERSION } from "../wire/index.js";
import { openSnapshot, type SnapshotLocation } from "./open.js";
import type {
  LibvirtImage,
  Snapshot,
  SnapshotBlock,
  SnapshotContainer,
  SnapshotFormat,
  SnapshotSection,
} from "./snapshot.js";

/** Pages of a block or a guest. */
export interface PageTotals {
  readonly total: number;
  /** Pages with content in the file. */
  readonly normal: number;
  /** Pages without content: they are zero. */
  readonly zero: number;
}

/** A RAM block in {@link SnapshotInfo}. */
export interface BlockInfo {
  /** Raw: may hold any character. */
  readonly name: string;
  /** Bytes. */
  readonly usedLength: number;
  /** Target page size in bytes. */
  readonly pageSize: number;
  readonly hostPageSize?: number;
  /** Guest address in hexadecimal, where the file has it (x-ignore-shared). */
  readonly guestAddress?: string;
  /** Present for shared memory that is not in the file (x-ignore-shared); such a block has no `pages`. */
  readonly leftOut?: true;
  readonly bitmapOffset?: number;
  readonly pagesOffset?: number;
  readonly pages?: PageTotals;
}

/** What a snapshot file holds: plain data, ready for JSON. Sizes and offsets are bytes. */
export interface SnapshotInfo {
  readonly container: SnapshotContainer;
  readonly format: SnapshotFormat;
  /** What libvirt says in its header; the XML is the snapshot's. */
  readonly libvirt?: Omit<LibvirtImage, "xml" | "cookie">;
  /** Version of the migration stream. */
  readonly version: number;
  readonly machine: string;
  readonly capabilities: readonly string[];
  readonly uuid: string | null;
  readonly targetPageSize: number;
  readonly streamOffset: number;
  readonly fileBytes: number;
  /** Null where the system does not say. */
  readonly allocatedBytes: number | null;
  /** Whether everything to the EOF and the description is there and agrees. */
  readonly complete: boolean;
  /** The first thing that is wrong, when the file is not complete. */
  readonly problem?: string;
  /** Bytes behind the end of the snapshot. */
  readonly trailingBytes: number;
  readonly description: { readonly offset: number; readonly length: number } | null;
  readonly ram: {
    readonly totalBytes: number;
    /** Absent for streams, whose pages are not walked for this. */
    readonly pages?: PageTotals;
    readonly blocks: readonly BlockInfo[];
  };
  readonly sections: readonly SnapshotSection[];
}

/**
 * Says what a snapshot file holds. Reads no page, and of bitmaps one piece at a time; only what is compressed has to be
 * unpacked whole.
 *
 * A file whose RAM blocks are sound and whose rest is damaged is described as far as it goes, with `complete` false.
 *
 * @throws FormatError when it is no snapshot or its RAM blocks are damaged; MachineError `io`; UsageError.
 */
export async function snapshotInfo(
  file: string | RandomAccessSource,
  options: SnapshotLocation = {},
): Promise<SnapshotInfo> {
  const snapshot = await openSnapshot(file, { ...options, tolerant: true, pages: false });
  try {
    return describe(snapshot);
  } finally {
    snapshot.close();
  }
}

function describe(snapshot: Snapshot): SnapshotInfo {
  const { configuration, description, problems, libvirt } = snapshot;
  const problem =
    problems[0]?.message ?? (description === undefined ? "The vmstate description is missing" : undefined);
  const blocks = snapshot.blocks.map((block) => describeBlock(snapshot, block));
  return {
    container: snapshot.container,
    format: snapshot.format,
    ...(libvirt === undefined ? {} : { libvirt: describeLibvirt(libvirt) }),
    version: QEMU_VM_FILE_VERSION,
    machine: configuration.machine,
    capabilities: configuration.capabilities,
    uuid: configuration.uuid === undefined ? null : formatUuid(configuration.uuid),
    targetPageSize: snapshot.targetPageSize,
    streamOffset: snapshot.streamOffset,
    fileBytes: snapshot.fileBytes,
    allocatedBytes: snapshot.allocatedBytes ?? null,
    complete: problem === undefined,
    ...(problem === undefined ? {} : { problem }),
    trailingBytes: snapshot.trailingBytes,
    description:
      description === undefined
        ? null
        : { offset: description.offset, length: new TextEncoder().encode(description.text).length },
    ram: {
      totalBytes: snapshot.totalBytes,
      ...(snapshot.hasPages ? { pages: sumPages(blocks) } : {}),
      blocks,
    },
    sections: snapshot.sections,
  };
}

function describeLibvirt({
  format,
  domain,
  wasRunning,
  finished,
}: LibvirtImage): Omit<LibvirtImage, "xml" | "cookie"> {
  return { format, ...(domain === undefined ? {} : { domain }), wasRunning, finished };
}

function describeBlock(snapshot: Snapshot, block: SnapshotBlock): BlockInfo {
  const { name, usedLength, pageSize, pageCount, hostPageSize, guestAddress } = block;
  const normal = snapshot.hasPages ? snapshot.countPresent(block) : undefined;
  return {
    name,
    usedLength,
    pageSize,
    ...(hostPageSize === undefined ? {} : { hostPageSize }),
    ...(guestAddress === undefined ? {} : { guestAddress: `0x${guestAddress.toString(16)}` }),
    ...(block.bitmapOffset === undefined ? {} : { bitmapOffset: block.bitmapOffset }),
    ...(block.pagesOffset === undefined ? {} : { pagesOffset: block.pagesOffset }),
    ...(block.leftOut ? { leftOut: true as const } : {}),
    ...(block.leftOut || normal === undefined
      ? {}
      : { pages: { total: pageCount, normal, zero: pageCount - normal } }),
  };
}

function sumPages(blocks: readonly BlockInfo[]): PageTotals {
  const sum = (field: keyof PageTotals): number =>
    blocks.reduce((total, { pages }) => total + (pages?.[field] ?? 0), 0);
  return { total: sum("total"), normal: sum("normal"), zero: sum("zero") };
}
