import { FormatError } from "../../errors/index.js";
import {
  type Configuration,
  Limits,
  type RamBlockEntry,
  type RamRecordSink,
  type SectionHeader,
  SectionType,
  type StreamTail,
} from "../../wire/index.js";
import type { MigrationTarget, RamSectionType } from "../migration-target.js";

/** A device section's part or a command that stands before or between the parts of RAM, or all that stand behind. */
export interface PassedSection {
  /** With type and footer, where a section begins; nothing of later parts and commands. */
  readonly bytes: Uint8Array;
  readonly offset: number;
  /** Bytes in the stream. */
  readonly length: number;
}

/** Parts of iterative devices come with each round over RAM. */
const MOST_PASSED = 1 << 20;
/** One for all of them: an empty array of its own has some hundred bytes. */
const NO_BYTES = new Uint8Array();

/** What a stream says beside its pages. */
export interface StreamHead {
  /** Undefined for streams without a configuration section. */
  readonly configuration: Configuration | undefined;
  readonly passed: readonly PassedSection[];
  readonly ram: SectionHeader;
  /** Where the RAM section's type byte stands. */
  readonly ramOffset: number;
  readonly blocks: readonly RamBlockEntry[];
  /** Target page size in bytes. */
  readonly pageSize: number;
}

/** Notes everything of a migration but its pages, which go to another target. */
export class StreamFacts implements MigrationTarget {
  streamTail: StreamTail | undefined;
  /** Whether sections end with footers. */
  footers = true;
  readonly #pages: MigrationTarget;
  readonly #passed: PassedSection[] = [];
  #keptBytes = 0;
  #tail: PassedSection | undefined;
  #configuration: Configuration | undefined;
  #ram: Omit<StreamHead, "configuration" | "passed"> | undefined;

  /** @param pages Gets every call too, and all pages. */
  constructor(pages: MigrationTarget) {
    this.#pages = pages;
  }

  /** What was read so far; undefined before the RAM section. */
  get head(): StreamHead | undefined {
    if (this.#ram === undefined) return undefined;
    return { configuration: this.#configuration, passed: this.#passed, ...this.#ram };
  }

  /** The bytes of all device sections and commands: what stands before, between and behind the parts of RAM. */
  get outsideRam(): readonly PassedSection[] {
    return this.#tail === undefined ? this.#passed : [...this.#passed, this.#tail];
  }

  configuration(configuration: Configuration | undefined): void {
    this.#configuration = configuration;
    this.#pages.configuration(configuration);
  }

  verbatim(bytes: Uint8Array, offset: number): void {
    const begins = bytes[0] === SectionType.START || bytes[0] === SectionType.FULL;
    this.#keptBytes += begins ? bytes.length : 0;
    if (this.#keptBytes > Limits.tailBytes || this.#passed.length >= MOST_PASSED) {
      throw new FormatError("limit-exceeded", "There is too much beside the pages of RAM", { offset });
    }
    this.#passed.push({ bytes: begins ? bytes.slice() : NO_BYTES, offset, length: bytes.length });
    this.#pages.verbatim(bytes, offset);
  }

  ramStart(
    ram: SectionHeader,
    blocks: readonly RamBlockEntry[],
    pageSize: number,
    ramOffset: number,
  ): RamRecordSink {
    this.#ram = { ram, ramOffset, blocks, pageSize };
    return this.#pages.ramStart(ram, blocks, pageSize, ramOffset);
  }

  ramSectionEnd(type: RamSectionType, footer: boolean): void {
    this.footers = footer;
    this.#pages.ramSectionEnd(type, footer);
  }

  tail(tail: StreamTail, bytes: Uint8Array): void {
    this.streamTail = tail;
    const length = tail.eofOffset - tail.baseOffset;
    this.#tail = { bytes: bytes.slice(0, length), offset: tail.baseOffset, length };
    this.#pages.tail(tail, bytes);
  }
}
