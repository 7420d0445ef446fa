import type { RandomAccessSource } from "../../channels/index.js";
import { FormatError, throwIfAborted } from "../../errors/index.js";
import type { PageBitmap } from "../../memory/index.js";
import { RAM_SECTION } from "../../wire/index.js";
import { splitGlobalState } from "../global-state.js";
import { eachPiece, eventLoopTurns, type MigrationHost } from "../host.js";
import { readPageBitmap } from "../mapped-ram/bitmaps.js";
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

/** Options of {@link loadHost}. */
export interface LoadHostOptions {
  /** Where the stream starts in the file; default 0. */
  readonly streamOffset?: number;
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

/** Largest read; also what is read between two turns of the event loop. */
const SLICE_BYTES = 4 << 20;

/**
 * Restores an embedded machine from a mapped-ram file. The machine, the blocks, the bitmaps and the devices are checked
 * first: until they all fit, nothing of the host is changed. It is left stopped, as it was when it was saved.
 *
 * @throws FormatError when the file is damaged or is not of such a machine; UsageError when the guest runs;
 *   CancelledError. What fails once memory is being replaced leaves a host that is good for nothing but another load.
 */
export async function loadHost(
  host: MigrationHost,
  file: RandomAccessSource,
  options: LoadHostOptions = {},
): Promise<LoadHostResult> {
  throwIfAborted(options.signal);
  checkStopped(host);
  const startMs = performance.now();
  const skeleton = openMappedRam(file, options.streamOffset ?? 0);
  const { rules = { ignoreShared: false } } = options;
  checkConfiguration(host, skeleton.configuration, rules);
  checkFile(skeleton);
  const loads = planBlocks(host, file, skeleton, rules);
  const { tail, bytes } = readMappedRamTail(file, skeleton);
  const { devices, wasRunning } = splitGlobalState(devicesOf(tail, bytes));
  host.checkDevices(devices);
  const readBytes = await loadMemory(host, file, loads, options);
  host.loadDevices(devices);
  const normal = readBytes / host.pageSize;
  return {
    pages: { normal, zero: skeleton.totalBytes / host.pageSize - normal },
    readBytes,
    totalMs: performance.now() - startMs,
    wasRunning,
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

/** Fills the blocks; returns the bytes read from the file. */
async function loadMemory(
  host: MigrationHost,
  file: RandomAccessSource,
  loads: readonly BlockLoad[],
  { signal, onProgress }: LoadHostOptions,
): Promise<number> {
  const { pageSize } = host;
  const meter = new ProgressMeter(onProgress);
  const breathe = eventLoopTurns(signal);
  const totalBytes = loads.reduce((sum, { present }) => sum + present.count() * pageSize, 0);
  let readBytes = 0;
  let slice = 0;
  for (const load of loads) {
    const memory = (): readonly Uint8Array[] => host.ramBlocks()[load.index]?.segments ?? [];
    clearPages(memory(), load.present.clearRuns(), pageSize);
    for (const { start, end } of load.present.runs()) {
      for (let at = start * pageSize; at < end * pageSize; at += SLICE_BYTES) {
        const length = Math.min(SLICE_BYTES, end * pageSize - at);
        eachPiece(memory(), at, length, SLICE_BYTES, (bytes, address) =>
          readPages(file, load, bytes, address),
        );
        readBytes += length;
        slice += length;
        if (slice < SLICE_BYTES) continue;
        slice = 0;
        meter.update(readBytes, () => ({
          phase: "restoring",
          totalBytes,
          remainingBytes: totalBytes - readBytes,
        }));
        await breathe();
      }
    }
  }
  return readBytes;
}

function readPages(file: RandomAccessSource, load: BlockLoad, bytes: Uint8Array, address: number): void {
  readInFull(file, bytes, load.pagesOffset + address, "The file ends inside a page", {
    section: RAM_SECTION.name,
    block: load.name,
  });
}
