import type {
  Configuration,
  RamBlockEntry,
  RamRecordSink,
  SectionHeader,
  SectionType,
  StreamTail,
} from "../wire/index.js";

/** The three kinds of parts that the RAM section comes in. */
export type RamSectionType = typeof SectionType.START | typeof SectionType.PART | typeof SectionType.END;

/**
 * Takes a migration as it is read: configuration, device sections before RAM, RAM, and everything behind it, in this
 * order. Calls are synchronous; bytes handed over are only valid during the call.
 */
export interface MigrationTarget {
  /** @param configuration Undefined for streams without one (machine types of QEMU 2.3 and older). */
  configuration(configuration: Configuration | undefined): void;
  /**
   * A whole device section or a command that stands before or between the RAM sections, with its type and footer.
   *
   * @param offset Where it stands in the stream.
   */
  verbatim(bytes: Uint8Array, offset: number): void;
  /**
   * The RAM section has begun.
   *
   * @param pageSize Target page size in bytes.
   * @param offset Where the section's type byte stands in the stream.
   * @returns Where the pages go, by the blocks' place in the list.
   */
  ramStart(
    header: SectionHeader,
    blocks: readonly RamBlockEntry[],
    pageSize: number,
    offset: number,
  ): RamRecordSink;
  /**
   * A part of the RAM section has ended; each START, PART and END does.
   *
   * @param footer Whether the source closes sections with a footer: the loader of the same machine type expects the same.
   */
  ramSectionEnd(type: RamSectionType, footer: boolean): void;
  /** Everything behind RAM, verbatim and decoded. Nothing comes after it. */
  tail(tail: StreamTail, bytes: Uint8Array): void;
}
