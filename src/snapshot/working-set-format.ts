import { crc32 } from "node:zlib";

import { FormatError } from "../errors/index.js";
import { ByteReader, ByteWriter, Limits } from "../wire/index.js";
import type { WorkingSet, WorkingSetBlock, WorkingSetRun } from "./working-set.js";
import { WorkingSetLimits } from "./working-set.js";

/*
 * A working-set file, all integers big-endian:
 *
 *   magic        8 bytes "RAMPWSET"
 *   version      be32, 1
 *   page size    be32, the target's, in bytes
 *   fingerprint  16 bytes, of the snapshot
 *   blocks       be32, then each: u8 length, name, be64 used length
 *   runs         be32, then each, in order of the first request:
 *                  varint (pages * 2 + other), where other is 1 for another block than that of the run before
 *                  varint block, when other is 1
 *                  varint (zigzag) first page, less the page behind the block's run before (0 at first)
 *   checksum     be32, CRC-32 of everything before it
 *
 * A varint is 7 bits a byte, lowest first, with the top bit set in all but the last: guests walk through their memory, so
 * most runs take two to four bytes.
 */

const MAGIC = new TextEncoder().encode("RAMPWSET");
const VERSION = 1;
const FINGERPRINT_BYTES = 16;
const CHECKSUM_BYTES = 4;

/** The most bytes that a working-set file can have: runs of the widest numbers, and blocks of the longest names. */
export const LARGEST_WORKING_SET_BYTES = 40 + Limits.ramBlocks * 264 + WorkingSetLimits.runs * 24;

/** The bytes of a working-set file. */
export function encodeWorkingSet({ targetPageSize, fingerprint, blocks, runs }: WorkingSet): Uint8Array {
  const writer = new ByteWriter(64 + runs.length * 4);
  writer.raw(MAGIC).u32(VERSION).u32(targetPageSize).raw(fingerprint).u32(blocks.length);
  for (const { name, usedLength } of blocks) writer.idstr(name).u64(usedLength);
  writer.u32(runs.length);
  const ends = blocks.map(() => 0);
  let current = 0;
  for (const { block, firstPage, pageCount } of runs) {
    const other = block === current ? 0 : 1;
    writeVarint(writer, pageCount * 2 + other);
    if (other === 1) writeVarint(writer, block);
    current = block;
    writeVarint(writer, zigzag(firstPage - (ends[block] ?? 0)));
    ends[block] = firstPage + pageCount;
  }
  writer.u32(crc32(writer.finish()));
  return writer.finish().slice();
}

/**
 * Reads the bytes of a working-set file.
 *
 * @throws FormatError for anything that {@link encodeWorkingSet} does not write.
 */
export function decodeWorkingSet(bytes: Uint8Array): WorkingSet {
  if (!MAGIC.every((byte, index) => bytes[index] === byte)) {
    throw new FormatError("malformed", "This is no working-set file", { offset: 0 });
  }
  const reader = new ByteReader(bytes.subarray(0, Math.max(0, bytes.length - CHECKSUM_BYTES)));
  reader.view(MAGIC.length);
  const version = reader.u32();
  if (version !== VERSION) {
    throw new FormatError("unsupported", "This working-set file is of another version", {
      expected: VERSION,
      actual: version,
    });
  }
  checkSum(bytes);
  const targetPageSize = reader.u32();
  if (
    targetPageSize < Limits.minTargetPageSize ||
    targetPageSize > Limits.maxTargetPageSize ||
    (targetPageSize & (targetPageSize - 1)) !== 0
  ) {
    throw new FormatError("malformed", "No target has such a page size", { actual: targetPageSize });
  }
  const fingerprint = reader.view(FINGERPRINT_BYTES).slice();
  const blocks = readBlocks(reader, targetPageSize);
  const runs = readRuns(reader, blocks, targetPageSize);
  if (reader.remaining > 0) {
    throw new FormatError("malformed", "Something stands behind the last run", { offset: reader.offset });
  }
  checkOverlaps(runs, blocks);
  return { targetPageSize, fingerprint, blocks, runs };
}

function checkSum(bytes: Uint8Array): void {
  const end = bytes.length - CHECKSUM_BYTES;
  const expected = new ByteReader(bytes.subarray(end), end).u32();
  if (crc32(bytes.subarray(0, end)) === expected) return;
  throw new FormatError("malformed", "The checksum of the working-set file is wrong: it is damaged");
}

function readBlocks(reader: ByteReader, pageSize: number): WorkingSetBlock[] {
  const count = readCount(reader, "blocks", Limits.ramBlocks);
  const blocks: WorkingSetBlock[] = [];
  let pages = 0;
  for (let index = 0; index < count; index++) {
    const { offset } = reader;
    const name = reader.idstr("block's name");
    const usedLength = reader.u64Number("block's length");
    pages += usedLength / pageSize;
    if (!Number.isInteger(usedLength / pageSize) || pages > Limits.pages) {
      throw new FormatError("malformed", "A block has an impossible length", {
        offset,
        block: name,
        actual: usedLength,
      });
    }
    blocks.push({ name, usedLength });
  }
  if (new Set(blocks.map(({ name }) => name)).size < blocks.length) {
    throw new FormatError("inconsistent", "Two blocks have one name");
  }
  return blocks;
}

function readRuns(reader: ByteReader, blocks: readonly WorkingSetBlock[], pageSize: number): WorkingSetRun[] {
  const count = readCount(reader, "runs", WorkingSetLimits.runs);
  const runs: WorkingSetRun[] = [];
  const ends = blocks.map(() => 0);
  let block = 0;
  for (let index = 0; index < count; index++) {
    const { offset } = reader;
    const head = readVarint(reader);
    if (head % 2 === 1) block = readVarint(reader);
    const pageCount = Math.floor(head / 2);
    const firstPage = (ends[block] ?? 0) + unzigzag(readVarint(reader));
    const blockPages = (blocks[block]?.usedLength ?? 0) / pageSize;
    if (pageCount === 0 || firstPage < 0 || firstPage + pageCount > blockPages) {
      throw new FormatError("malformed", "A run has pages that no block has", { offset });
    }
    ends[block] = firstPage + pageCount;
    runs.push({ block, firstPage, pageCount });
  }
  return runs;
}

/** By sorting, which costs what the runs do: blocks may claim any length. */
function checkOverlaps(runs: readonly WorkingSetRun[], blocks: readonly WorkingSetBlock[]): void {
  const sorted = [...runs].sort((a, b) => a.block - b.block || a.firstPage - b.firstPage);
  let before: WorkingSetRun | undefined;
  for (const run of sorted) {
    if (before?.block === run.block && before.firstPage + before.pageCount > run.firstPage) {
      throw new FormatError("inconsistent", `Page ${run.firstPage} is in two runs`, {
        block: blocks[run.block]?.name ?? "",
      });
    }
    before = run;
  }
}

function readCount(reader: ByteReader, what: string, most: number): number {
  const { offset } = reader;
  const count = reader.u32();
  if (count <= most) return count;
  throw new FormatError("limit-exceeded", `The working set has too many ${what}`, {
    offset,
    expected: `at most ${most}`,
    actual: count,
  });
}

function writeVarint(writer: ByteWriter, value: number): void {
  let rest = value;
  // No bit operations: pages of large guests pass 2^31.
  while (rest >= 0x80) {
    writer.u8((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  writer.u8(rest);
}

/** Six bytes hold every page of every guest, so that nothing passes 2^53. */
const LONGEST_VARINT = 6;

function readVarint(reader: ByteReader): number {
  const { offset } = reader;
  let value = 0;
  for (let place = 0; place < LONGEST_VARINT; place++) {
    const byte = reader.u8();
    value += (byte & 0x7f) * 0x80 ** place;
    if (byte < 0x80) return value;
  }
  throw new FormatError("limit-exceeded", "A number of the working set is absurdly large", { offset });
}

function zigzag(value: number): number {
  return value < 0 ? -value * 2 - 1 : value * 2;
}

function unzigzag(value: number): number {
  return value % 2 === 1 ? -(value + 1) / 2 : value / 2;
}
