import type { OverlappedReader, RandomAccessSource } from "../../channels/index.js";
import { FormatError, throwIfAborted } from "../../errors/index.js";
import type { PageBitmap } from "../../memory/index.js";
import { RAM_SECTION } from "../../wire/index.js";
import { checkGuest, loadGuest, splitGlobalState } from "../global-state.js";
import { eachPiece, eventLoopTurns, type MigrationHost } from "../host.js";
import { readPageBitmap } from "../mapped-ram/bitmaps.js";
import { checkChannels } from "../mapped-ram/channels.js";
import { type MappedRamFile, openMappedRam } from "../mapped-ram/open.js";
import { readMappedRamTail } from "../mapped-ram/tail.js";
import { type ProgressListener, ProgressMeter } from "../progress.js";
import { clearPages } from "../ram-block.js";
import { readInFull } from "../read-in-full.js";
import {
  checkConfiguration,
  checkPageSize,
  checkStopped,
  type IncomingRules,
  matchBlocks,
} from "./host-checks.js";
import { devicesOf } from "./host-target.js";
import { type BlockSource, type OverlappedFile, OverlappedLoad } from "./overlapped-load.js";

/** Options of {@link loadHost}. */
export interface LoadHostOptions {
  /** Where the stream starts in the file; default 0. */
  readonly streamOffset?: number;
  /**
   * How many reads are in flight at a time, each in a thread of Node's pool (of which there are four unless
   * UV_THREADPOOL_SIZE says otherwise): 1 to 255. Without it, or where the file cannot be read so, this thread reads.
   */
  readonly channels?: number;
  /** Default: nothing is shared. */
  readonly rules?: IncomingRules;
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** What was loaded. */
export interface LoadHostResult {
  readonly pages: { readonly normal: number; readonly zero: number };
  /** Bytes of pages read from the file. */
  readonly readBytes: number;
  readonly totalMs: number;
  /** Whether the guest ran when it was saved. */
  readonly wasRunning: boolean;
  /** Whether the guest slept then: see {@link MigrationHost.suspended}. */
  readonly wasSuspended: boolean;
}

/** What goes into one block of the host. */
interface BlockLoad {
  /** Place in the host's list. */
  readonly index: number;
  readonly name: string;
  readonly pagesOffset: number;
  /** Pages that have content; the others become zero. */
  readonly present: PageBitmap;
}

const ENDS_INSIDE = "The file ends inside a page";
/** Largest read; also what is read between two turns of the event loop. */
const SLICE_BYTES = 4 << 20;

/**
 * Restores an embedded machine from a mapped-ram file. The machine, the blocks, the bitmaps and the devices are checked
 * first: until they all fit, nothing of the host is changed. It is left stopped, as it was when it was saved.
 *
 * @throws FormatError when the file is damaged or is not of such a machine; UsageError when the guest runs, or
 *   for a number of channels that cannot be;
 *   CancelledError. What fails once memory is being replaced leaves a host that is good for nothing but another load.
 */
export async function loadHost(
  host: MigrationHost,
  file: RandomAccessSource & Partial<OverlappedReader>,
  options: LoadHostOptions = {},
): Promise<LoadHostResult> {
  throwIfAborted(options.signal);
  if (options.channels !== undefined) checkChannels(options.channels);
  checkStopped(host);
  const startMs = performance.now();
  const skeleton = openMappedRam(file, options.streamOffset ?? 0);
  const { rules = { ignoreShared: false } } = options;
  checkConfiguration(host, skeleton.configuration, rules);
  checkFile(skeleton);
  const loads = planBlocks(host, file, skeleton, rules);
  const { tail, bytes } = readMappedRamTail(file, skeleton);
  const guest = splitGlobalState(devicesOf(tail, bytes));
  checkGuest(host, guest);
  const readBytes = await loadMemory(host, file, loads, options);
  loadGuest(host, guest);
  const normal = readBytes / host.pageSize;
  return {
    pages: { normal, zero: skeleton.totalBytes / host.pageSize - normal },
    readBytes,
    totalMs: performance.now() - startMs,
    wasRunning: guest.wasRunning,
    wasSuspended: guest.wasSuspended,
  };
}

function checkFile({ beforeRam }: MappedRamFile): void {
  const early = beforeRam.find(({ header }) => header !== undefined);
  if (early?.header === undefined) return;
  throw new FormatError("unsupported", "The migration has a device in front of its memory", {
    offset: early.offset,
    section: early.header.name,
  });
}

function planBlocks(
  host: MigrationHost,
  file: RandomAccessSource,
  { blocks, pageSize }: MappedRamFile,
  rules: IncomingRules,
): BlockLoad[] {
  const matches = matchBlocks(host, blocks, rules);
  return blocks.flatMap((block, place) => {
    const { name, mapped } = block;
    const { index, travels } = matches[place] ?? { index: -1, travels: false };
    if (!travels) return [];
    checkPageSize(host, mapped?.pageSize ?? pageSize, name);
    if (mapped === undefined) {
      throw new FormatError("inconsistent", "The file has no pages of a RAM block that is not shared here", {
        section: RAM_SECTION.name,
        block: name,
      });
    }
    const present = readPageBitmap(file, block);
    if (present.tailBits() > 0) {
      throw new FormatError("malformed", "A bitmap has bits past the last page", {
        section: RAM_SECTION.name,
        block: name,
        offset: mapped.bitmapOffset,
      });
    }
    return [{ index, name, pagesOffset: mapped.pagesOffset, present }];
  });
}

/** Fills the blocks; returns the bytes of pages that have content. */
async function loadMemory(
  host: MigrationHost,
  file: RandomAccessSource & Partial<OverlappedReader>,
  loads: readonly BlockLoad[],
  { signal, onProgress, channels }: LoadHostOptions,
): Promise<number> {
  const { pageSize } = host;
  const meter = new ProgressMeter(onProgress);
  const breathe = eventLoopTurns(signal);
  const totalBytes = loads.reduce((sum, { present }) => sum + present.count() * pageSize, 0);
  let readBytes = 0;
  const afterSlice = async (bytes: number): Promise<void> => {
    readBytes += bytes;
    meter.update(readBytes, () => ({
      phase: "restoring",
      totalBytes,
      remainingBytes: Math.max(0, totalBytes - readBytes),
    }));
    await breathe();
  };
  if (channels !== undefined && isOverlapped(file)) {
    const overlapped = new OverlappedLoad(file, channels, afterSlice);
    for (const load of loads) await overlapped.fill(blockSource(host, load));
    await overlapped.settle();
  } else await loadInThisThread(host, file, loads, afterSlice);
  return totalBytes;
}

function isOverlapped(file: RandomAccessSource & Partial<OverlappedReader>): file is OverlappedFile {
  return file.startRead !== undefined;
}

function blockSource(host: MigrationHost, load: BlockLoad): BlockSource {
  return {
    pagesOffset: load.pagesOffset,
    pageSize: host.pageSize,
    present: load.present,
    segments: () => memoryOf(host, load),
    failAtEnd(offset) {
      throw new FormatError("truncated", ENDS_INSIDE, {
        offset,
        section: RAM_SECTION.name,
        block: load.name,
      });
    },
  };
}

function memoryOf(host: MigrationHost, load: BlockLoad): readonly Uint8Array[] {
  return host.ramBlocks()[load.index]?.segments ?? [];
}

async function loadInThisThread(
  host: MigrationHost,
  file: RandomAccessSource,
  loads: readonly BlockLoad[],
  afterSlice: (bytes: number) => Promise<void>,
): Promise<void> {
  const { pageSize } = host;
  let slice = 0;
  for (const load of loads) {
    clearPages(memoryOf(host, load), load.present.clearRuns(), pageSize);
    for (const { start, end } of load.present.runs()) {
      for (let at = start * pageSize; at < end * pageSize; at += SLICE_BYTES) {
        const length = Math.min(SLICE_BYTES, end * pageSize - at);
        eachPiece(memoryOf(host, load), at, length, SLICE_BYTES, (bytes, address) =>
          readPages(file, load, bytes, address),
        );
        slice += length;
        if (slice < SLICE_BYTES) continue;
        await afterSlice(slice);
        slice = 0;
      }
    }
  }
}

function readPages(file: RandomAccessSource, load: BlockLoad, bytes: Uint8Array, address: number): void {
  readInFull(file, bytes, load.pagesOffset + address, ENDS_INSIDE, {
    section: RAM_SECTION.name,
    block: load.name,
  });
}
