import { FormatError, printable } from "../errors/index.js";
import type { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import { Limits, RamFlag } from "./constants.js";

/** A RAM block as the block list names it. */
export interface RamBlockEntry {
  /** `idstr` of the block, e.g. `pc.ram` or `0000:00:02.0/vga.vram`. */
  readonly name: string;
  /** Bytes in use: what is migrated. Its maximum can be larger and is not on the wire. */
  readonly usedLength: number;
  /** Host page size, on the wire only for postcopy and only where it is not the ordinary one. */
  readonly hostPageSize?: number;
  /** Guest address of the block, on the wire with x-ignore-shared. */
  readonly guestAddress?: bigint;
}

/** What decides which optional fields an entry has. */
export interface BlockListDialect {
  /** The x-ignore-shared capability: each entry carries its guest address. */
  readonly ignoreShared: boolean;
  /** The OR of all block page sizes from POSTCOPY_ADVISE, or 0: a block with huge pages then carries their size. */
  readonly postcopyPageSizes: number;
}

/**
 * Decodes the be64 that opens the block list.
 *
 * @returns The sum of the used lengths that the entries must reach.
 * @throws FormatError `malformed` when no block list stands here.
 */
export function decodeBlockListHead(reader: ByteReader): number {
  const offset = reader.offset;
  const value = reader.u64();
  const flags = Number(value & 0xffn);
  if ((flags & RamFlag.MEM_SIZE) === 0) {
    throw new FormatError("malformed", "The RAM section does not begin with its block list", {
      offset,
      section: "ram",
      expected: `flag 0x${RamFlag.MEM_SIZE.toString(16)}`,
      actual: `0x${value.toString(16)}`,
    });
  }
  const total = value & ~0xffn;
  if (total > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new FormatError("limit-exceeded", "The total RAM size is absurdly large", {
      offset,
      section: "ram",
      actual: total,
    });
  }
  return Number(total);
}

/** Encodes the be64 that opens the block list. */
export function encodeBlockListHead(writer: ByteWriter, totalBytes: number): void {
  writer.u64(BigInt(totalBytes) | BigInt(RamFlag.MEM_SIZE));
}

/** Decodes one entry of the block list, without the mapped-ram header that may follow it. */
export function decodeBlockListEntry(reader: ByteReader, dialect: BlockListDialect): RamBlockEntry {
  const name = reader.idstr("RAM block's name");
  const usedLength = reader.u64Number(`used length of RAM block ${printable(name)}`);
  const hostPageSize = dialect.postcopyPageSizes === 0 ? undefined : decodeHostPageSize(reader, dialect);
  const guestAddress = dialect.ignoreShared ? reader.u64() : undefined;
  return {
    name,
    usedLength,
    ...(hostPageSize === undefined ? {} : { hostPageSize }),
    ...(guestAddress === undefined ? {} : { guestAddress }),
  };
}

/** Encodes one entry of the block list, without a mapped-ram header. */
export function encodeBlockListEntry(writer: ByteWriter, entry: RamBlockEntry): void {
  writer.idstr(entry.name).u64(entry.usedLength);
  if (entry.hostPageSize !== undefined) writer.u64(entry.hostPageSize);
  if (entry.guestAddress !== undefined) writer.u64(entry.guestAddress);
}

/**
 * Gathers the entries of a block list and decides when it is complete, whoever reads them and whatever stands between.
 */
export class BlockListBuilder<Entry extends RamBlockEntry> {
  readonly blocks: Entry[] = [];
  readonly totalBytes: number;
  readonly #onProblem: (problem: FormatError) => void;
  #names = new Set<string>();
  #sum = 0;

  /** @param onProblem Takes what is wrong with an entry and can be passed over; without it, that is thrown. */
  constructor(totalBytes: number, onProblem?: (problem: FormatError) => void) {
    this.totalBytes = totalBytes;
    this.#onProblem =
      onProblem ??
      ((problem) => {
        throw problem;
      });
  }

  /** Sum of the used lengths so far. */
  get listedBytes(): number {
    return this.#sum;
  }

  /** The list ends when the used lengths add up to the announced total. */
  get complete(): boolean {
    return this.#sum >= this.totalBytes;
  }

  /**
   * Adds an entry that was read at `offset`.
   *
   * @throws FormatError when a name stands twice, a block is empty, or the lengths pass the total.
   */
  add(entry: Entry, offset: number): void {
    const place = { offset, section: "ram", block: entry.name };
    if (this.#names.has(entry.name)) {
      this.#onProblem(new FormatError("malformed", "A RAM block is listed twice", place));
    }
    if (this.blocks.length === Limits.ramBlocks) {
      throw new FormatError("limit-exceeded", `There are more than ${Limits.ramBlocks} RAM blocks`, place);
    }
    if (entry.usedLength === 0) {
      this.#onProblem(new FormatError("malformed", "A RAM block has no bytes", place));
    }
    this.#names.add(entry.name);
    this.#sum += entry.usedLength;
    this.blocks.push(entry);
    if (this.#sum > this.totalBytes) {
      this.#onProblem(
        new FormatError("inconsistent", "The RAM blocks are longer than their announced total", {
          ...place,
          expected: this.totalBytes,
          actual: this.#sum,
        }),
      );
    }
  }
}

/**
 * Nothing announces whether the page size is there. Where it is, it is one of the sizes that POSTCOPY_ADVISE promised,
 * and so begins with a zero byte, as no other thing that may stand here does but the next record's be64, whose value
 * (the EOS flag) is no page size.
 */
function decodeHostPageSize(reader: ByteReader, dialect: BlockListDialect): number | undefined {
  const start = reader.position;
  const value = reader.u64();
  const ordinary = 4096n;
  const isPowerOfTwo = value !== 0n && (value & (value - 1n)) === 0n;
  if (isPowerOfTwo && value > ordinary && (value & BigInt(dialect.postcopyPageSizes)) !== 0n)
    return Number(value);
  reader.position = start;
  return undefined;
}
