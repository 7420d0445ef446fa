import { FormatError, printable } from "../errors/index.js";
import { ByteReader } from "./byte-reader.js";
import { ByteWriter } from "./byte-writer.js";
import type { Command } from "./command.js";
import { Limits, MigrationCommand } from "./constants.js";

/** What POSTCOPY_ADVISE says: both sides must have the same page sizes. */
export interface PostcopyAdvice {
  /** The host page sizes of all RAM blocks, ORed: each is a power of two. Bytes. */
  readonly hostPageSizes: number;
  /** Bytes. */
  readonly targetPageSize: number;
}

/** Bytes of a block, from `start` on. */
export interface ByteRange {
  readonly start: number;
  readonly length: number;
}

/** POSTCOPY_RAM_DISCARD: what the destination has of a block, or may have, and has to forget. */
export interface RamDiscard {
  readonly block: string;
  /** In bytes; whole host pages. */
  readonly ranges: readonly ByteRange[];
}

const ADVICE_BYTES = 16;
/** `postcopy_ram_discard_version`. */
const DISCARD_VERSION = 0;
/** `MAX_DISCARDS_PER_COMMAND`: how many ranges QEMU puts into one command. */
export const MAX_DISCARDS_PER_COMMAND = 12;
const NO_DATA = new Uint8Array();

/** A command without data: OPEN_RETURN_PATH, POSTCOPY_LISTEN, POSTCOPY_RUN, POSTCOPY_RESUME, SWITCHOVER_START. */
export function plainCommand(command: number): Command {
  return { command, data: NO_DATA };
}

/** A PING: the destination answers with a PONG of the same value. */
export function pingCommand(value: number): Command {
  return { command: MigrationCommand.PING, data: new ByteWriter(4).u32(value).finish() };
}

/** The ADVISE that prepares postcopy of RAM. */
export function postcopyAdviseCommand({ hostPageSizes, targetPageSize }: PostcopyAdvice): Command {
  const data = new ByteWriter(ADVICE_BYTES).u64(hostPageSizes).u64(targetPageSize).finish();
  return { command: MigrationCommand.POSTCOPY_ADVISE, data };
}

/**
 * Decodes the data of POSTCOPY_ADVISE.
 *
 * @returns Undefined for one without data: other devices postcopy, RAM does not.
 * @throws FormatError `malformed` for another length, `inconsistent` for sizes that no memory has.
 */
export function decodePostcopyAdvise(data: Uint8Array, offset = 0): PostcopyAdvice | undefined {
  if (data.length === 0) return undefined;
  if (data.length !== ADVICE_BYTES) {
    throw new FormatError("malformed", "POSTCOPY_ADVISE has a length that it cannot have", {
      offset,
      expected: `0 or ${ADVICE_BYTES} bytes`,
      actual: `${data.length} bytes`,
    });
  }
  const reader = new ByteReader(data, offset);
  const hostPageSizes = reader.u64Number("page sizes of POSTCOPY_ADVISE");
  const targetPageSize = reader.u64Number("target page size of POSTCOPY_ADVISE");
  if (
    isPowerOfTwo(targetPageSize) &&
    hostPageSizes >= targetPageSize &&
    hostPageSizes % targetPageSize === 0
  ) {
    return { hostPageSizes, targetPageSize };
  }
  throw new FormatError("inconsistent", "POSTCOPY_ADVISE has page sizes that no memory has", {
    offset,
    actual: `0x${hostPageSizes.toString(16)} and ${targetPageSize}`,
  });
}

/** Tells the destination to forget ranges of a block: at most {@link MAX_DISCARDS_PER_COMMAND} of them, and one at least. */
export function ramDiscardCommand({ block, ranges }: RamDiscard): Command {
  const writer = new ByteWriter().u8(DISCARD_VERSION).idstr(block).u8(0);
  for (const { start, length } of ranges) writer.u64(start).u64(length);
  return { command: MigrationCommand.POSTCOPY_RAM_DISCARD, data: writer.finish().slice() };
}

/**
 * Decodes the data of POSTCOPY_RAM_DISCARD; whether there is such a block, and such pages in it, the caller knows.
 *
 * @throws FormatError `unsupported` for another version, `malformed` for anything that is no list of ranges.
 */
export function decodeRamDiscard(data: Uint8Array, offset = 0): RamDiscard {
  const reader = new ByteReader(data, offset);
  const version = reader.u8();
  if (version !== DISCARD_VERSION) {
    throw new FormatError("unsupported", "Pages are discarded in a way that ramport does not know", {
      offset,
      expected: DISCARD_VERSION,
      actual: version,
    });
  }
  const block = reader.idstr("RAM block's name");
  if (reader.u8() !== 0 || reader.remaining % 16 !== 0) {
    throw new FormatError("malformed", "POSTCOPY_RAM_DISCARD is no list of ranges", { offset, block });
  }
  const ranges: ByteRange[] = [];
  while (reader.remaining > 0) {
    const at = reader.offset;
    const start = reader.u64Number(`start of a discarded range of ${printable(block)}`);
    const length = reader.u64Number(`length of a discarded range of ${printable(block)}`);
    if (length === 0) throw new FormatError("malformed", "A discarded range is empty", { offset: at, block });
    ranges.push({ start, length });
  }
  return { block, ranges };
}

/** PACKAGED: announces that a nested stream of `length` bytes follows the command. */
export function packagedCommand(length: number): Command {
  return { command: MigrationCommand.PACKAGED, data: new ByteWriter(4).u32(length).finish() };
}

/**
 * Decodes the data of PACKAGED.
 *
 * @returns How many bytes of nested stream follow the command.
 * @throws FormatError `malformed` for another length of the data, `limit-exceeded` for a package beyond reason.
 */
export function decodePackaged(data: Uint8Array, offset = 0): number {
  if (data.length !== 4) {
    throw new FormatError("malformed", "PACKAGED has a length that it cannot have", {
      offset,
      actual: data.length,
    });
  }
  const length = new ByteReader(data, offset).u32();
  if (length <= Limits.packagedBytes) return length;
  throw new FormatError("limit-exceeded", "The packaged device state is absurdly large", {
    offset,
    expected: `at most ${Limits.packagedBytes} bytes`,
    actual: length,
  });
}

/** RECV_BITMAP: asks the destination for what it has of a block. */
export function receivedBitmapCommand(block: string): Command {
  return { command: MigrationCommand.RECV_BITMAP, data: new ByteWriter().idstr(block).finish() };
}

/** Decodes the data of the command RECV_BITMAP: a block's name. */
export function decodeReceivedBitmapCommand(data: Uint8Array, offset = 0): string {
  const reader = new ByteReader(data, offset);
  const block = reader.idstr("RAM block's name");
  if (reader.remaining === 0) return block;
  throw new FormatError("malformed", "RECV_BITMAP is longer than it can be", { offset, block });
}

function isPowerOfTwo(value: number): boolean {
  return value >= 1 && Number.isInteger(Math.log2(value));
}
