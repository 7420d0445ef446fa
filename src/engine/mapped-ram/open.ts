import type { RandomAccessSource } from "../../channels/index.js";
import { assert, FormatError } from "../../errors/index.js";
import {
  afterType,
  BlockListBuilder,
  type Configuration,
  decodeBlockListEntry,
  decodeBlockListHead,
  decodeCommand,
  decodeConfiguration,
  decodeFileHeader,
  decodeMappedRamHeader,
  decodeSectionFooter,
  decodeSectionHeader,
  DEFAULT_TARGET_PAGE_SIZE,
  Limits,
  type MappedRamHeader,
  RAM_SECTION,
  type RamBlockEntry,
  RamFlag,
  SECTION_FOOTER_BYTES,
  searchSectionFooter,
  type SectionHeader,
  SectionType,
  targetPageSizeOf,
} from "../../wire/index.js";
import { checkRamVersion } from "../ram-section.js";
import { IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY } from "./capability.js";
import { findOverlaps } from "./areas.js";
import { checkMappedBlock } from "./block-checks.js";
import { FileCursor } from "./file-cursor.js";

/** A RAM block of a mapped-ram file. */
export interface MappedRamBlock extends RamBlockEntry {
  /** Offset of its entry in the block list. */
  readonly entryOffset: number;
  /** Bytes of the entry with its mapped-ram header. */
  readonly entryLength: number;
  /** Absent for a shared block that was left out (x-ignore-shared): it has no pages in the file. */
  readonly mapped?: MappedRamHeader;
}

/** A section that stands before the RAM section ends, as it is in the file. */
export interface EarlySection {
  /** The byte it begins with: START, PART, END, FULL or COMMAND of SectionType. */
  readonly type: number;
  readonly offset: number;
  /** With type and footer, or a whole command. */
  readonly length: number;
  /** Absent for a command. */
  readonly id?: number;
  /** Absent for a command and for the later parts of an iterative device. */
  readonly header?: SectionHeader;
}

/** The skeleton of a mapped-ram file: everything but the pages. */
export interface MappedRamFile {
  /** Where the stream starts in the file. */
  readonly streamOffset: number;
  readonly configuration: Configuration;
  /** Device sections and commands in front of RAM, in order. */
  readonly beforeRam: readonly EarlySection[];
  readonly ram: SectionHeader;
  /** Offset of the RAM section's type byte. */
  readonly ramOffset: number;
  readonly totalBytes: number;
  readonly blocks: readonly MappedRamBlock[];
  /** Offset behind the last block's pages, where the end of the RAM section's START stands. */
  readonly blockListEndOffset: number;
  /** Target page size in bytes. */
  readonly pageSize: number;
  /** Commands and sections between the parts of RAM. */
  readonly betweenRam: readonly EarlySection[];
  /** Whether sections are closed by footers. */
  readonly footers: boolean;
  /** Offset behind the RAM section's END. */
  readonly ramEndOffset: number;
}

/** A skeleton as far as it can be read. */
export interface ExaminedMappedRamFile extends Omit<MappedRamFile, "ramEndOffset"> {
  /** Absent where the end of the RAM section was not found. */
  readonly ramEndOffset?: number;
}

/** How to read a skeleton. */
export interface OpenMappedRamOptions {
  /**
   * Takes what is wrong and can be passed over: a block that breaks a rule (`data.block` names it), or a RAM section that
   * does not end as it should. Without it the first of these is thrown.
   */
  readonly onProblem?: (problem: FormatError) => void;
}

/**
 * Reads the skeleton of a mapped-ram file. No page and no bitmap is read.
 *
 * @throws FormatError when it is no mapped-ram file or its structure is damaged; `unsupported` for a stream that is fine
 *   but not mapped-ram.
 */
export function openMappedRam(file: RandomAccessSource, streamOffset = 0): MappedRamFile {
  const skeleton = examineMappedRam(file, streamOffset, {});
  const { ramEndOffset } = skeleton;
  assert(ramEndOffset !== undefined, "a strict reading ended before RAM did");
  const [overlap] = findOverlaps(skeleton, file.sizeBytes);
  if (overlap !== undefined) throw overlap.error;
  return { ...skeleton, ramEndOffset };
}

/**
 * Reads the same as {@link openMappedRam}, going on behind what is wrong as far as `onProblem` allows.
 *
 * @throws FormatError for what cannot be passed over, and whatever `onProblem` throws.
 */
export function examineMappedRam(
  file: RandomAccessSource,
  streamOffset: number,
  options: OpenMappedRamOptions,
): ExaminedMappedRamFile {
  if (file.sizeBytes <= streamOffset) {
    throw new FormatError("truncated", "The file has no bytes where the stream should start", {
      offset: streamOffset,
    });
  }
  return new SkeletonReader(file, streamOffset, options).read();
}

class SkeletonReader {
  readonly #file: RandomAccessSource;
  readonly #cursor: FileCursor;
  readonly #streamOffset: number;
  readonly #beforeRam: EarlySection[] = [];
  readonly #betweenRam: EarlySection[] = [];
  readonly #onProblem: (problem: FormatError) => void;
  /** Target page size: from the configuration, or of the first block. */
  #pageSize: number | undefined;
  #footers = false;

  constructor(file: RandomAccessSource, streamOffset: number, options: OpenMappedRamOptions) {
    this.#file = file;
    this.#streamOffset = streamOffset;
    this.#onProblem =
      options.onProblem ??
      ((problem) => {
        throw problem;
      });
    this.#cursor = new FileCursor(file, streamOffset);
  }

  read(): ExaminedMappedRamFile {
    const cursor = this.#cursor;
    cursor.parse(decodeFileHeader);
    if (cursor.peek() !== SectionType.CONFIGURATION) throw notMappedRam(cursor.position);
    const configuration = cursor.parse((reader) => decodeConfiguration(afterType(reader)));
    if (!configuration.capabilities.includes(MAPPED_RAM_CAPABILITY)) throw notMappedRam(this.#streamOffset);
    const ramOffset = this.#findRam();
    const ram = cursor.parse((reader) => decodeSectionHeader(afterType(reader)));
    checkRamVersion(ram, ramOffset);
    this.#pageSize = targetPageSizeOf(configuration);
    const list = this.#readBlocks(configuration);
    const blockListEndOffset = cursor.position;
    const ramEndOffset = this.#readEndOfRam(ram);
    return {
      streamOffset: this.#streamOffset,
      configuration,
      beforeRam: this.#beforeRam,
      ram,
      ramOffset,
      totalBytes: list.totalBytes,
      blocks: list.blocks,
      blockListEndOffset,
      pageSize: this.#pageSize ?? DEFAULT_TARGET_PAGE_SIZE,
      betweenRam: this.#betweenRam,
      footers: this.#footers,
      ...(ramEndOffset === undefined ? {} : { ramEndOffset }),
    };
  }

  /** Moves to the RAM section's START, over what stands before it. */
  #findRam(): number {
    const cursor = this.#cursor;
    for (let count = 0; count < Limits.sections; count++) {
      const offset = cursor.position;
      const type = cursor.peek();
      if (type === SectionType.START || type === SectionType.FULL) {
        const header = cursor.parse((reader) => decodeSectionHeader(afterType(reader)));
        if (header.name === RAM_SECTION.name) {
          cursor.position = offset;
          return offset;
        }
        this.#skipOpaque(type, header, cursor.position - offset, offset, this.#beforeRam);
      } else if (type === SectionType.COMMAND) this.#skipCommand(offset, this.#beforeRam);
      else throw unexpectedPart(type, offset, "before the RAM section");
    }
    throw new FormatError("limit-exceeded", "There are too many sections before RAM", {
      offset: cursor.position,
    });
  }

  #readBlocks(configuration: Configuration): BlockListBuilder<MappedRamBlock> {
    const cursor = this.#cursor;
    const ignoreShared = configuration.capabilities.includes(IGNORE_SHARED_CAPABILITY);
    const list = new BlockListBuilder<MappedRamBlock>(cursor.parse(decodeBlockListHead), this.#onProblem);
    let pages = 0;
    while (!list.complete) {
      const offset = cursor.position;
      // An entry begins with its name's length; what ends the section begins with a zero.
      if (cursor.peek() === 0) throw noFurtherBlock(list, offset);
      const { entry, mapped } = cursor.parse((reader) => ({
        entry: decodeBlockListEntry(reader, { ignoreShared, postcopyPageSizes: 0 }),
        mapped: decodeMappedRamHeader(reader),
      }));
      const place = { entryOffset: offset, entryLength: cursor.position - offset };
      const leftOut = ignoreShared && mapped.bitmapOffset === 0 && mapped.pagesOffset === 0;
      if (leftOut) list.add({ ...entry, ...place }, offset);
      else {
        if (this.#checkMappedBlock(entry, mapped, offset)) pages += entry.usedLength / mapped.pageSize;
        if (pages > Limits.pages) throw tooManyPages(entry, offset);
        list.add({ ...entry, ...place, mapped }, offset);
        cursor.position = mapped.pagesOffset + entry.usedLength;
      }
    }
    return list;
  }

  /** Reads on to the end of the RAM section; returns the offset behind it, or undefined where it was not found. */
  #readEndOfRam(ram: SectionHeader): number | undefined {
    try {
      this.#readEndOfSection(ram);
      this.#readLaterParts(ram);
      return this.#cursor.position;
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.#onProblem(error);
      return undefined;
    }
  }

  /** PART and END hold nothing but their EOS; commands and other devices may stand between them. */
  #readLaterParts(ram: SectionHeader): void {
    const cursor = this.#cursor;
    // RAM's own parts do not count: a long live save of QEMU's has ten a second.
    while (this.#betweenRam.length < Limits.sections) {
      const offset = cursor.position;
      const type = cursor.peek();
      if (type === SectionType.PART || type === SectionType.END) {
        const id = cursor.parse((reader) => afterType(reader).u32());
        if (id === ram.id) {
          this.#readEndOfSection(ram);
          if (type === SectionType.END) return;
        } else {
          const header = { id, name: `number ${id}` };
          this.#skipOpaque(type, header, cursor.position - offset, offset, this.#betweenRam);
        }
      } else if (type === SectionType.COMMAND) this.#skipCommand(offset, this.#betweenRam);
      else if (type === SectionType.START || type === SectionType.FULL) {
        const header = cursor.parse((reader) => decodeSectionHeader(afterType(reader)));
        this.#skipOpaque(type, header, cursor.position - offset, offset, this.#betweenRam);
      } else throw unexpectedPart(type, offset, "before the RAM section ends");
    }
    throw new FormatError("limit-exceeded", "The RAM section has too many parts", {
      offset: cursor.position,
      section: ram.name,
      expected: `at most ${Limits.sections}`,
    });
  }

  #readEndOfSection(ram: SectionHeader): void {
    const cursor = this.#cursor;
    const offset = cursor.position;
    const value = cursor.parse((reader) => reader.u64());
    if (value !== BigInt(RamFlag.EOS)) {
      throw new FormatError("malformed", "A part of the RAM section holds more than its end", {
        offset,
        section: ram.name,
        expected: `0x${RamFlag.EOS.toString(16)}`,
        actual: `0x${value.toString(16)}`,
      });
    }
    this.#footers = cursor.peek() === SectionType.FOOTER;
    if (this.#footers) cursor.parse((reader) => decodeSectionFooter(reader, ram));
  }

  #skipCommand(offset: number, list: EarlySection[]): void {
    this.#cursor.parse((reader) => decodeCommand(afterType(reader)));
    list.push({ type: SectionType.COMMAND, offset, length: this.#cursor.position - offset });
  }

  /** A device section whose length only its footer tells. */
  #skipOpaque(
    type: number,
    header: Pick<SectionHeader, "id" | "name"> & Partial<SectionHeader>,
    headBytes: number,
    offset: number,
    list: EarlySection[],
  ): void {
    const cursor = this.#cursor;
    cursor.position = offset;
    const length = cursor.parse((reader) => {
      const footer = searchSectionFooter(reader.bytes, headBytes, header.id);
      if (footer >= 0) return reader.view(footer + SECTION_FOOTER_BYTES).length;
      throw new FormatError("truncated", "The end of a device section was not found", {
        offset,
        section: header.name,
      });
    });
    const { id, instance, version } = header;
    const whole =
      instance === undefined || version === undefined ? undefined : { ...header, instance, version };
    list.push({ type, offset, length, id, ...(whole === undefined ? {} : { header: whole }) });
  }

  /** @returns Whether the block's page size is possible at all. */
  #checkMappedBlock(entry: RamBlockEntry, mapped: MappedRamHeader, offset: number): boolean {
    if (!checkMappedBlock(entry, mapped, offset, this.#file.sizeBytes, this.#onProblem)) return false;
    this.#pageSize ??= mapped.pageSize;
    if (mapped.pageSize === this.#pageSize) return true;
    this.#onProblem(
      new FormatError("inconsistent", "A RAM block has another page size than the target", {
        offset,
        section: RAM_SECTION.name,
        block: entry.name,
        expected: this.#pageSize,
        actual: mapped.pageSize,
      }),
    );
    return true;
  }
}

function noFurtherBlock(list: BlockListBuilder<MappedRamBlock>, offset: number): FormatError {
  return new FormatError("malformed", "No RAM block stands where the block list goes on", {
    offset,
    section: RAM_SECTION.name,
    expected: `blocks of ${list.totalBytes} bytes in all`,
    actual: `blocks of ${list.listedBytes} bytes`,
  });
}

function tooManyPages(entry: RamBlockEntry, offset: number): FormatError {
  return new FormatError("limit-exceeded", "The RAM blocks have absurdly many pages", {
    offset,
    section: RAM_SECTION.name,
    block: entry.name,
    expected: `at most ${Limits.pages}`,
  });
}

function unexpectedPart(type: number | undefined, offset: number, where: string): FormatError {
  if (type === undefined) return new FormatError("truncated", `The file ends ${where}`, { offset });
  const actual = `0x${type.toString(16)}`;
  return new FormatError("malformed", `Something that is no section stands ${where}`, { offset, actual });
}

function notMappedRam(offset: number): FormatError {
  return new FormatError("unsupported", "This is a migration stream, not a mapped-ram file", {
    offset,
    hint: "turn it into one with: ramport receive file:STREAM OUT",
  });
}
