import { IGNORE_SHARED_CAPABILITY } from "../engine/mapped-ram/capability.js";
import type { PositionedFile } from "../engine/mapped-ram/positioned-file.js";
import { MappedRamWriter } from "../engine/mapped-ram/writer.js";
import type { MigrationTarget, RamSectionType } from "../engine/migration-target.js";
import { FormatError } from "../errors/index.js";
import {
  type Configuration,
  type RamBlockEntry,
  type RamRecordSink,
  type SectionHeader,
  SectionType,
} from "../wire/index.js";

/** Stands for the machine in a file that nobody else sees. */
const SCRATCH_CONFIGURATION = { machine: "scratch", capabilities: [] } as const;

/**
 * Puts a stream's pages into a scratch file, as a mapped-ram file without devices. What stands outside RAM is kept by who
 * walks the stream, so that streams of old machine types can be unpacked too, whose devices no mapped-ram file can hold.
 */
export class ScratchPages implements MigrationTarget {
  readonly #writer: MappedRamWriter;

  constructor(file: PositionedFile) {
    this.#writer = new MappedRamWriter(file);
    this.#writer.configuration(SCRATCH_CONFIGURATION);
  }

  /** @throws FormatError `unsupported`: only places in the stream tell blocks that were left out from zero ones. */
  configuration(configuration: Configuration | undefined): void {
    if (configuration?.capabilities.includes(IGNORE_SHARED_CAPABILITY) !== true) return;
    const message = "A stream that is compressed and leaves shared RAM out cannot be read";
    throw new FormatError("unsupported", message);
  }

  verbatim(): void {
    // Not needed for pages.
  }

  ramStart(header: SectionHeader, blocks: readonly RamBlockEntry[], pageSize: number): RamRecordSink {
    return this.#writer.ramStart(header, blocks, pageSize);
  }

  ramSectionEnd(type: RamSectionType): void {
    this.#writer.ramSectionEnd(type, true);
  }

  tail(): void {
    const tail = {
      baseOffset: 0,
      sections: [],
      laterParts: [],
      commands: [],
      eofOffset: 0,
      trailingBytes: 0,
    };
    this.#writer.tail(tail, Uint8Array.of(SectionType.EOF));
  }
}
