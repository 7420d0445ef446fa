import type { ByteSource, RandomAccessSource } from "../channels/byte-stream.js";
import { openCompressed } from "../channels/decompress.js";
import { RangeSource } from "../channels/range-source.js";
import { readMigrationHead, receiveMigration } from "../engine/incoming/receive.js";
import { IGNORE_SHARED_CAPABILITY } from "../engine/mapped-ram/capability.js";
import { checkPageBitmaps } from "../engine/mapped-ram/bitmaps.js";
import { type MappedRamFile, openMappedRam } from "../engine/mapped-ram/open.js";
import type { MigrationTarget } from "../engine/migration-target.js";
import { replayMappedRam } from "../engine/outgoing/replay.js";
import type { ProgressListener } from "../engine/progress.js";
import { FormatError } from "../errors/index.js";
import type { RamBlockEntry, RamRecordSink, SectionHeader } from "../wire/index.js";
import { identifySnapshot, type SnapshotIdentity } from "./identify.js";
import { readMappedRam } from "./mapped-ram-reading.js";
import { openSource, type SnapshotLocation } from "./open.js";
import type { SnapshotContainer, SnapshotFormat } from "./snapshot.js";
import { peekStream } from "./stream-reading.js";

/** What can be converted: a file by its path, an open file, or a stream that comes once. */
export type ConvertInput = string | RandomAccessSource | ByteSource;

/** What a source was, as far as a converter can say. */
export interface ConvertedFrom {
  readonly container: SnapshotContainer;
  readonly format: SnapshotFormat;
  /** The program that it was packed with, for libvirt images that were. */
  readonly compression?: string;
}

/** How to look at a source. */
export interface ConvertInputOptions extends SnapshotLocation {
  /** Bytes; for guests whose target page is not 4096 bytes and whose stream does not say so. */
  readonly targetPageSize?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** A mapped-ram source: its pages are read where they are. */
export interface MappedRamOrigin {
  readonly kind: "mapped-ram";
  readonly from: ConvertedFrom;
  readonly file: RandomAccessSource;
  readonly skeleton: MappedRamFile;
}

/** A source that is read from front to back. */
export interface StreamOrigin {
  readonly kind: "stream";
  readonly from: ConvertedFrom;
  /** The stream from its first byte on; a file's can be opened again. */
  readonly open: () => ByteSource;
  readonly startOffset: number;
  readonly targetPageSize?: number;
  /** Bytes of the stream, where they are known before it is read. */
  readonly streamBytes?: number;
  /** Blocks that have no records (x-ignore-shared); undefined where they cannot be told. */
  readonly leftOut?: ReadonlySet<string>;
}

/** A source that was looked at: what it is, and how to read it. */
export type ConvertOrigin = (MappedRamOrigin | StreamOrigin) & {
  /** Closes what was opened for it. */
  readonly close: () => void;
};

/**
 * Looks at a source, and at a mapped-ram file's whole structure: converting one whose parts lie over each other would
 * make a sound file of nonsense. A stream that leaves shared RAM out is walked to learn which blocks these are.
 *
 * @throws FormatError; MachineError; UsageError for an impossible offset; CancelledError.
 */
export async function openOrigin(input: ConvertInput, options: ConvertInputOptions): Promise<ConvertOrigin> {
  if (typeof input !== "string" && "read" in input) {
    const { targetPageSize } = options;
    return {
      kind: "stream",
      from: { container: "qemu", format: "stream" },
      open: () => input,
      startOffset: 0,
      ...(targetPageSize === undefined ? {} : { targetPageSize }),
      close: () => undefined,
    };
  }
  const { source, offset, close } = openSource(input, options);
  try {
    const identity = identifySnapshot(source, offset);
    if (identity.libvirt?.finished === false) {
      throw new FormatError("truncated", "libvirt had not finished this image", { offset });
    }
    const origin =
      identity.format === "mapped-ram"
        ? openMappedRamOrigin(source, identity)
        : await openStreamOrigin(source, identity, options);
    return { ...origin, close };
  } catch (error) {
    close();
    throw error;
  }
}

function openMappedRamOrigin(source: RandomAccessSource, identity: SnapshotIdentity): MappedRamOrigin {
  // For the description, which must agree with the sections.
  readMappedRam(source, identity.streamOffset, "nothing");
  const skeleton = openMappedRam(source, identity.streamOffset);
  checkPageBitmaps(source, skeleton.blocks);
  return { kind: "mapped-ram", from: describeIdentity(identity), file: source, skeleton };
}

async function openStreamOrigin(
  source: RandomAccessSource,
  identity: SnapshotIdentity,
  options: ConvertInputOptions,
): Promise<StreamOrigin> {
  const { streamOffset, compression } = identity;
  const open = (): ByteSource =>
    compression === undefined
      ? new RangeSource(source, streamOffset)
      : openCompressed(source, streamOffset, compression);
  const startOffset = compression === undefined ? streamOffset : 0;
  // The end of the file says the page size, which the front of most streams does not.
  const head =
    compression === undefined
      ? ((await peekStream(source, streamOffset))?.head ?? (await readHead(open(), startOffset, options)))
      : await readHead(open(), startOffset, options);
  const origin: StreamOrigin = {
    kind: "stream",
    from: describeIdentity(identity),
    open,
    startOffset,
    targetPageSize: options.targetPageSize ?? head.pageSize,
    ...(compression === undefined ? { streamBytes: source.sizeBytes - streamOffset } : {}),
  };
  const ignoresShared = head.configuration?.capabilities.includes(IGNORE_SHARED_CAPABILITY) === true;
  return ignoresShared ? { ...origin, leftOut: await findLeftOut(origin, options) } : origin;
}

async function readHead(
  source: ByteSource,
  startOffset: number,
  { targetPageSize }: ConvertInputOptions,
): Promise<Awaited<ReturnType<typeof readMigrationHead>>> {
  try {
    const page = targetPageSize === undefined ? {} : { targetPageSize };
    return await readMigrationHead(source, { startOffset, ...page });
  } finally {
    await source.close();
  }
}

function describeIdentity({ container, format, compression }: SnapshotIdentity): ConvertedFrom {
  return { container, format, ...(compression === undefined ? {} : { compression }) };
}

/** Reads a whole stream to learn which blocks no record names. */
async function findLeftOut(origin: StreamOrigin, options: ConvertInputOptions): Promise<ReadonlySet<string>> {
  const seen = new SeenBlocks();
  await readOrigin(origin, seen, "looking for what was left out", options);
  return seen.unseen();
}

/** Blocks without pages; undefined where only the whole stream tells. */
export function leftOutOf(origin: MappedRamOrigin | StreamOrigin): ReadonlySet<string> | undefined {
  if (origin.kind === "stream") return origin.leftOut;
  const unmapped = origin.skeleton.blocks.filter(({ mapped }) => mapped === undefined);
  return new Set(unmapped.map(({ name }) => name));
}

/**
 * Hands everything of an origin to a migration target, from front to back.
 *
 * @param phase What the progress is called.
 * @throws FormatError when it is damaged; what the target throws; CancelledError.
 */
export async function readOrigin(
  origin: MappedRamOrigin | StreamOrigin,
  target: MigrationTarget,
  phase: string,
  { signal, onProgress }: ConvertInputOptions,
): Promise<void> {
  const cancel = signal === undefined ? {} : { signal };
  if (origin.kind === "mapped-ram") {
    const listen = listenAs(phase, undefined, onProgress);
    await replayMappedRam(origin.file, origin.skeleton, target, { ...cancel, ...listen });
    return;
  }
  const { startOffset, targetPageSize, streamBytes } = origin;
  const source = origin.open();
  try {
    await receiveMigration(source, target, {
      ...cancel,
      ...listenAs(phase, streamBytes, onProgress),
      startOffset,
      ...(targetPageSize === undefined ? {} : { targetPageSize }),
    });
  } finally {
    await source.close();
  }
}

/** A listener that calls the phase by another name, and knows how long the stream is. */
export function listenAs(
  phase: string,
  streamBytes: number | undefined,
  onProgress: ProgressListener | undefined,
): { readonly onProgress?: ProgressListener } {
  if (onProgress === undefined) return {};
  return {
    onProgress: (progress) => {
      const remainingBytes =
        streamBytes === undefined ? undefined : Math.max(0, streamBytes - progress.transferredBytes);
      onProgress({
        ...progress,
        phase,
        ...(streamBytes === undefined || remainingBytes === undefined
          ? {}
          : { totalBytes: streamBytes, remainingBytes }),
      });
    },
  };
}

/** Notes which blocks have records, and nothing else. */
class SeenBlocks implements MigrationTarget, RamRecordSink {
  #names: readonly string[] = [];
  #seen: boolean[] = [];

  unseen(): ReadonlySet<string> {
    return new Set(this.#names.filter((_, index) => this.#seen[index] !== true));
  }

  configuration(): void {
    // Only the pages matter.
  }

  verbatim(): void {
    // As above.
  }

  ramStart(_header: SectionHeader, blocks: readonly RamBlockEntry[]): RamRecordSink {
    this.#names = blocks.map(({ name }) => name);
    this.#seen = blocks.map(() => false);
    return this;
  }

  ramSectionEnd(): void {
    // As above.
  }

  tail(): void {
    // As above.
  }

  page(block: number): void {
    this.#seen[block] = true;
  }

  zeroPage(block: number): void {
    this.#seen[block] = true;
  }

  xbzrlePage(block: number): void {
    this.#seen[block] = true;
  }

  compressedPage(block: number): void {
    this.#seen[block] = true;
  }
}
