import type { ByteSource, DirectIo, RandomAccessSource } from "../channels/index.js";
import type { MappedRamBlock } from "../engine/mapped-ram/open.js";
import { PlacedPages } from "../engine/mapped-ram/placed-pages.js";
import type { MigrationTarget } from "../engine/migration-target.js";
import type { ProgressListener } from "../engine/progress.js";
import type { PageRunSink } from "../engine/outgoing/replay.js";
import { throwIfAborted } from "../errors/index.js";
import type { Configuration, RamBlockEntry, RamRecordSink, SectionHeader } from "../wire/index.js";
import { type ConvertOrigin, leftOutOf, openOrigin, readOrigin } from "./convert-input.js";
import { BlockFiles, type ExtractedBlock, type ExtractTarget } from "./extract-files.js";
import type { SnapshotLocation } from "./open.js";

/** How to extract. */
export interface ExtractOptions extends SnapshotLocation {
  /** Replace existing files. */
  readonly replace?: boolean;
  /** Whether to read the files back for their SHA-256. */
  readonly sha256?: boolean;
  /** Bytes; for guests whose target page is not 4096 bytes and whose stream does not say so. */
  readonly targetPageSize?: number;
  /** Whether large reads and writes of the files go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** What was extracted: plain data, ready for JSON. */
export interface ExtractResult {
  /** Empty where the stream does not say. */
  readonly machine: string;
  readonly blocks: readonly ExtractedBlock[];
  /** Names of the blocks that are not in the snapshot: shared memory that the source left out (x-ignore-shared). */
  readonly leftOut: readonly string[];
}

/**
 * Writes RAM blocks as raw files: byte n of the block is byte n of the file, and pages without content are holes. All files
 * come into being, or none.
 *
 * A stream is read once, from front to back, and needs two bits of memory a page; one in a file that leaves shared RAM out
 * is read twice.
 *
 * @param input A path, an open file, or a stream that comes once: the last two stay the caller's.
 * @throws UsageError when there is no such block, or a file exists; FormatError for a bad snapshot; MachineError;
 *   CancelledError. No file is left.
 */
export async function extractBlocks(
  input: string | RandomAccessSource | ByteSource,
  target: ExtractTarget,
  options: ExtractOptions = {},
): Promise<ExtractResult> {
  throwIfAborted(options.signal);
  const files = new BlockFiles(
    target,
    { replace: options.replace ?? false, directIo: options.directIo ?? "off" },
    typeof input === "string" ? input : undefined,
  );
  try {
    const origin = await openOrigin(input, options);
    try {
      const extractor = new BlockExtractor(files, leftOutOf(origin));
      await readOrigin(onlyWanted(origin, files), extractor, "extracting", options);
      return {
        machine: extractor.machine,
        blocks: await files.commit(options),
        leftOut: extractor.leftOut,
      };
    } finally {
      origin.close();
    }
  } finally {
    files.discard();
  }
}

/** Pages of what is not wanted need not be read. */
function onlyWanted(origin: ConvertOrigin, files: BlockFiles): ConvertOrigin {
  if (origin.kind === "stream") return origin;
  const blocks = origin.skeleton.blocks.map((block): MappedRamBlock => {
    const { name, usedLength, entryOffset, entryLength } = block;
    return files.wants(name) ? block : { name, usedLength, entryOffset, entryLength };
  });
  return { ...origin, skeleton: { ...origin.skeleton, blocks } };
}

/** Puts the pages of the blocks that are wanted into their files; of everything else a migration has it takes nothing. */
class BlockExtractor implements MigrationTarget, PageRunSink {
  machine = "";
  readonly leftOut: string[];
  readonly #files: BlockFiles;
  readonly #knownLeftOut: ReadonlySet<string> | undefined;
  #entries: readonly RamBlockEntry[] = [];
  #pages = new PlacedPages([], 0);
  /** By the blocks' place in the list. */
  #wanted: readonly boolean[] = [];
  #seen: boolean[] = [];

  constructor(files: BlockFiles, knownLeftOut: ReadonlySet<string> | undefined) {
    this.#files = files;
    this.#knownLeftOut = knownLeftOut;
    this.leftOut = [...(knownLeftOut ?? [])];
  }

  configuration(configuration: Configuration | undefined): void {
    this.machine = configuration?.machine ?? "";
  }

  verbatim(): void {
    // No memory.
  }

  ramStart(_header: SectionHeader, blocks: readonly RamBlockEntry[], pageSize: number): RamRecordSink {
    this.#entries = blocks;
    this.#wanted = blocks.map(({ name }) => this.#files.wants(name));
    this.#seen = blocks.map(() => false);
    const places = this.#files.create(blocks, this.#knownLeftOut ?? new Set(), pageSize);
    this.#pages = new PlacedPages(places, pageSize);
    return this;
  }

  ramSectionEnd(): void {
    // Parts say nothing.
  }

  tail(): void {
    this.#pages.finish();
    if (this.#knownLeftOut !== undefined) return;
    for (const [index, { name, guestAddress }] of this.#entries.entries()) {
      // A block that is there has a record for each page; only with x-ignore-shared is there a guest address.
      if (guestAddress === undefined || this.#seen[index] === true) continue;
      this.leftOut.push(name);
      if (this.#wanted[index] === true) this.#files.leaveOut(index, name);
    }
  }

  page(block: number, address: number, bytes: Uint8Array, at: number): void {
    if (this.#takes(block)) this.#pages.page(block, address, bytes, at);
  }

  pages(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    if (this.#takes(block)) this.#pages.pages(block, address, bytes, at, length);
  }

  zeroPage(block: number, address: number): void {
    if (this.#takes(block)) this.#pages.zeroPage(block, address);
  }

  xbzrlePage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    if (this.#takes(block)) this.#pages.xbzrlePage(block, address, bytes, at, length);
  }

  compressedPage(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    if (this.#takes(block)) this.#pages.compressedPage(block, address, bytes, at, length);
  }

  #takes(block: number): boolean {
    this.#seen[block] = true;
    return this.#wanted[block] === true;
  }
}
