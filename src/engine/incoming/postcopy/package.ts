import { assert, FormatError } from "../../../errors/index.js";
import {
  ByteReader,
  decodeCommand,
  decodeSectionHeader,
  Limits,
  MigrationCommand,
  searchSectionFooter,
  SECTION_FOOTER_BYTES,
  type SectionHeader,
  SectionType,
} from "../../../wire/index.js";
import type { DeviceState } from "../../host.js";

/** What PACKAGED holds. */
export interface PostcopyPackage {
  /** In the order in which they came; payloads are views. */
  readonly devices: readonly DeviceState[];
  /** The values of the PINGs, to be answered when the devices are loaded. */
  readonly pings: readonly number[];
}

/** A device section, as far as it is thought to go. */
interface Section {
  readonly header: SectionHeader;
  readonly payloadStart: number;
  readonly footer: number;
  /** How many PINGs came before it. */
  readonly pings: number;
}

/** How often another end is tried for a section: bytes that look like a footer and what follows it are rare. */
const MOST_TRIES = 64;

/**
 * Takes the nested stream of PACKAGED apart: LISTEN, the devices, RUN at the end, PINGs anywhere. Nothing describes the
 * devices: each ends at the first footer with its number from where the rest can be read to the end; the machine has to
 * check what it gets.
 *
 * @param offset Where the nested stream stands in the migration's, for errors.
 * @throws FormatError for anything else.
 */
export function parsePackage(bytes: Uint8Array, offset: number): PostcopyPackage {
  const parser = new PackageParser(bytes, offset);
  let furthest: FormatError | undefined;
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    try {
      return parser.parse();
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      if (placeOf(error) > placeOf(furthest)) furthest = error;
      if (!parser.backtrack()) break;
    }
  }
  assert(furthest !== undefined, "a package that could not be read, and no reason");
  throw furthest;
}

function placeOf(error: FormatError | undefined): number {
  return error?.data.offset ?? -1;
}

class PackageParser {
  readonly #reader: ByteReader;
  readonly #sections: Section[] = [];
  readonly #pings: number[] = [];
  #listens = false;

  constructor(bytes: Uint8Array, offset: number) {
    this.#reader = new ByteReader(bytes, offset);
  }

  /** Goes on to the end. */
  parse(): PostcopyPackage {
    const reader = this.#reader;
    while (this.#sections.length + this.#pings.length < Limits.sections) {
      const { offset } = reader;
      const type = reader.remaining === 0 ? undefined : reader.u8();
      if (type === SectionType.FULL && this.#listens) {
        const header = decodeSectionHeader(reader);
        this.#take(header, reader.position, reader.position);
      } else if (type !== SectionType.COMMAND || this.#runCommand(offset)) {
        if (type === SectionType.COMMAND) return this.#package();
        throw this.#misplaced(offset, `section type ${type ?? "none"}`);
      }
    }
    throw new FormatError("limit-exceeded", `There are more than ${Limits.sections} sections`, {
      offset: reader.offset,
    });
  }

  /** Gives the last section another end. Returns whether there is one. */
  backtrack(): boolean {
    for (let last = this.#sections.pop(); last !== undefined; last = this.#sections.pop()) {
      this.#pings.length = last.pings;
      try {
        this.#take(last.header, last.payloadStart, last.footer + 1);
        return true;
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
      }
    }
    return false;
  }

  #take(header: SectionHeader, payloadStart: number, searchFrom: number): void {
    const reader = this.#reader;
    const footer = searchSectionFooter(reader.bytes, searchFrom, header.id);
    if (footer < 0) {
      throw new FormatError("malformed", "The end of a device section was not found", {
        offset: reader.offset,
        section: header.name,
        hint: "machine types of QEMU 2.3 and older have none, and cannot migrate by postcopy",
      });
    }
    this.#sections.push({ header, payloadStart, footer, pings: this.#pings.length });
    reader.position = footer + SECTION_FOOTER_BYTES;
  }

  /** Returns whether it was the last one. */
  #runCommand(offset: number): boolean {
    const { command, data } = decodeCommand(this.#reader);
    if (command === MigrationCommand.PING) {
      this.#pings.push(new ByteReader(data, offset).u32());
      return false;
    }
    if (command === MigrationCommand.POSTCOPY_LISTEN && !this.#listens) {
      this.#listens = true;
      return false;
    }
    if (command === MigrationCommand.POSTCOPY_RUN && this.#listens && this.#reader.remaining === 0)
      return true;
    throw this.#misplaced(offset, `command ${command}`);
  }

  #package(): PostcopyPackage {
    const { bytes } = this.#reader;
    return {
      devices: this.#sections.map(({ header, payloadStart, footer }) => ({
        name: header.name,
        instance: header.instance,
        version: header.version,
        payload: bytes.subarray(payloadStart, footer),
        fields: [],
      })),
      pings: this.#pings,
    };
  }

  #misplaced(offset: number, actual: string): FormatError {
    return new FormatError("malformed", "The packaged device state is not what postcopy begins with", {
      offset,
      expected: this.#listens ? "device sections, and POSTCOPY_RUN at the end" : "POSTCOPY_LISTEN",
      actual,
    });
  }
}
