import type { RandomAccessSource } from "../../channels/index.js";
import { FormatError } from "../../errors/index.js";
import { RAM_SECTION, type RamRecordSink, SectionType } from "../../wire/index.js";
import { Turns } from "../breathe.js";
import { MAPPED_RAM_CAPABILITY } from "../mapped-ram/capability.js";
import { readPageBitmap } from "../mapped-ram/bitmaps.js";
import type { EarlySection, MappedRamBlock, MappedRamFile } from "../mapped-ram/open.js";
import { readMappedRamTail } from "../mapped-ram/tail.js";
import type { MigrationTarget } from "../migration-target.js";
import { type ProgressListener, ProgressMeter } from "../progress.js";
import { readInFull } from "../read-in-full.js";

/** How to replay. */
export interface ReplayOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
}

/** Also what is written at once, and where writes begin and end: see `WriteCombiner`. */
const READ_BYTES = 256 << 10;

/** A sink that can also take pages that follow each other at once; the bytes are only valid during the call. */
export interface PageRunSink extends RamRecordSink {
  /** @param length Of whole pages. */
  pages?(block: number, address: number, bytes: Uint8Array, at: number, length: number): void;
}

/**
 * Hands a mapped-ram file to a target, as if its migration came in now: each page with content once, in order. Pages
 * without content are not handed over, and of the parts of RAM there is one: the target sees a guest that stood still.
 *
 * @throws FormatError when the file is damaged; what the target throws; CancelledError.
 */
export async function replayMappedRam(
  file: RandomAccessSource,
  skeleton: MappedRamFile,
  target: MigrationTarget,
  options: ReplayOptions = {},
): Promise<void> {
  const { configuration, ram, blocks, pageSize, footers, totalBytes } = skeleton;
  const { tail, bytes } = readMappedRamTail(file, skeleton);
  const pass = (section: EarlySection): void =>
    target.verbatim(readEarlySection(file, section), section.offset);
  const capabilities = configuration.capabilities.filter((name) => name !== MAPPED_RAM_CAPABILITY);
  target.configuration({ ...configuration, capabilities });
  skeleton.beforeRam.forEach(pass);
  const sink: PageRunSink = target.ramStart(ram, blocks, pageSize, skeleton.ramOffset);
  target.ramSectionEnd(SectionType.START, footers);
  const { setup, rounds } = splitBetweenRam(skeleton);
  setup.forEach(pass);
  const meter = new ProgressMeter(options.onProgress);
  let sentBytes = 0;
  const turns = new Turns(options.signal);
  let behind = 0;
  for (const [index, block] of blocks.entries()) {
    for (const { address, length } of replayBlock(file, block, index, sink)) {
      sentBytes += length;
      const remainingBytes = totalBytes - behind - address;
      meter.update(sentBytes, () => ({ phase: "sending", totalBytes, remainingBytes }));
      // Or no signal is heard before the end.
      if (turns.isDue) await turns.take();
    }
    behind += block.usedLength;
  }
  target.ramSectionEnd(SectionType.PART, footers);
  rounds.forEach(pass);
  target.ramSectionEnd(SectionType.END, footers);
  target.tail(tail, bytes);
}

/**
 * What stands between the first and the last part of RAM, as it has to stand around the pages: sections that begin there
 * are sent while a migration is set up, and some (virtio-mem's) must be loaded before the first page; commands and later
 * parts come with the rounds.
 */
export function splitBetweenRam({ betweenRam }: Pick<MappedRamFile, "betweenRam">): {
  readonly setup: readonly EarlySection[];
  readonly rounds: readonly EarlySection[];
} {
  const begins = ({ type }: EarlySection): boolean => type === SectionType.START || type === SectionType.FULL;
  return { setup: betweenRam.filter(begins), rounds: betweenRam.filter((section) => !begins(section)) };
}

/** A section that stands before RAM's end, or a command, as it is in the file. */
export function readEarlySection(file: RandomAccessSource, { offset, length }: EarlySection): Uint8Array {
  const bytes = new Uint8Array(length);
  if (file.readAt(bytes, offset) === length) return bytes;
  throw new FormatError("truncated", "The file became shorter while it was read", { offset });
}

/** Hands over a block's pages; yields behind each piece that was read. */
function* replayBlock(
  file: RandomAccessSource,
  block: MappedRamBlock,
  index: number,
  sink: PageRunSink,
): Generator<{ readonly address: number; readonly length: number }> {
  const { mapped, name } = block;
  if (mapped === undefined) return;
  const { pageSize, pagesOffset } = mapped;
  const place = { section: RAM_SECTION.name, block: name };
  const buffer = new Uint8Array(READ_BYTES);
  for (const { start, end } of readPageBitmap(file, block).runs()) {
    for (let address = start * pageSize; address < end * pageSize;) {
      const length = Math.min(READ_BYTES - (address % READ_BYTES), end * pageSize - address);
      const position = pagesOffset + address;
      readInFull(
        file,
        buffer.subarray(0, length),
        position,
        "The file became shorter while it was read",
        place,
      );
      if (sink.pages !== undefined) sink.pages(index, address, buffer, 0, length);
      else for (let at = 0; at < length; at += pageSize) sink.page(index, address + at, buffer, at);
      yield { address, length };
      address += length;
    }
  }
}
