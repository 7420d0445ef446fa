import { FormatError } from "../errors/index.js";
import { ByteReader } from "./byte-reader.js";
import { type Command, decodeCommand } from "./command.js";
import { Limits, SectionType } from "./constants.js";
import { mayStartNext, searchSectionFooter } from "./footer-search.js";
import { skipHtabPart } from "./htab-section.js";
import {
  decodeSectionFooter,
  decodeSectionHeader,
  SECTION_FOOTER_BYTES,
  type SectionHeader,
} from "./section.js";
import {
  type DescribedDevice,
  parseVmstateDescription,
  type VmstateDescription,
} from "./vmstate-description.js";

/** A device's section and where it stands. */
export interface DeviceSection extends SectionHeader {
  /** Whether it comes in parts (START, PART, END), as only iterative devices do; the others come at once (FULL). */
  readonly iterative: boolean;
  /** Offset of the section's type byte in the file or stream. */
  readonly offset: number;
  /** Bytes from the type byte to the end of the footer, later parts added. */
  readonly length: number;
  /** Offset of the first payload byte. */
  readonly payloadOffset: number;
  /** Bytes of the payload; of an iterative section's first part only. */
  readonly payloadLength: number;
}

/** A PART or END of a section that began elsewhere. */
export interface SectionPart {
  readonly id: number;
  readonly offset: number;
  /** With type and footer. */
  readonly length: number;
}

/** Everything that follows the RAM section. Offsets are those of the file or stream. */
export interface StreamTail {
  /** Offset of the first byte behind the RAM section. */
  readonly baseOffset: number;
  readonly sections: readonly DeviceSection[];
  /** Parts of sections that began before the RAM section ended. */
  readonly laterParts: readonly SectionPart[];
  readonly commands: readonly Command[];
  /** Offset of the EOF byte that ends the sections. */
  readonly eofOffset: number;
  /** The vmstate description, when there is one. */
  readonly description?: {
    readonly offset: number;
    readonly text: string;
    readonly content: VmstateDescription;
  };
  /** Bytes behind everything that the format knows. */
  readonly trailingBytes: number;
  /**
   * Why the sections are only known up to some point, or not at all: the source sends no footers, and no description says
   * how long a section is. `sections` has those before it, and `eofOffset` was told from the stream's end.
   */
  readonly undelimited?: FormatError;
}

/** How a source frames its sections. */
export interface SectionFraming {
  /** Whether each section ends with a footer, as the RAM section shows. Machine types of QEMU 2.3 and older send none. */
  readonly footers?: boolean;
  /** Id of a pseries guest's hash page table, which began in front of RAM's end: without footers its content delimits it. */
  readonly htabId?: number;
}

/** A tail as far as it can be read. */
export interface ExaminedStreamTail extends Omit<StreamTail, "eofOffset"> {
  /** Absent when the sections could not be followed to their end. */
  readonly eofOffset?: number;
  /** What is wrong, in the order it was found; a sound tail has nothing here. */
  readonly problems: readonly FormatError[];
}

/** Not damage: a stream without footers does not say where this section ends. */
class UndelimitedError extends FormatError {
  constructor(offset: number, section: string) {
    const message = "Nothing in the stream says where this device section ends";
    super("unsupported", message, {
      offset,
      section,
      hint: "machine types of QEMU 2.3 and older send no footers, those before 2.3 no description either",
    });
  }
}

/** The EOF byte, the description's type byte and its be32 length. */
const DESCRIPTION_HEAD_BYTES = 6;
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;

/**
 * Decodes what follows the RAM section's end: device sections, EOF and the description.
 *
 * Device payloads carry no length. The description at the end says how long each one is; where it does not, the end is
 * the section's own footer with something plausible behind it. Without footers it is not known: `undelimited` says so,
 * which is no damage.
 *
 * @param bytes All bytes from there to the end of the file or stream.
 * @param baseOffset Offset of `bytes[0]`.
 * @throws FormatError when the sections, the EOF or the description are cut off, damaged or in disagreement.
 */
export function decodeStreamTail(
  bytes: Uint8Array,
  baseOffset: number,
  framing: SectionFraming = {},
): StreamTail {
  const { problems, eofOffset, ...tail } = examineStreamTail(bytes, baseOffset, framing);
  const [first] = problems;
  if (first !== undefined) throw first;
  if (eofOffset === undefined) throw new FormatError("truncated", "The end of the sections was not found");
  return { ...tail, eofOffset };
}

/**
 * Decodes the same as {@link decodeStreamTail}, and goes on behind what is wrong as far as the bytes allow: where a
 * length of the description does not fit, the section's footer is searched for.
 */
export function examineStreamTail(
  bytes: Uint8Array,
  baseOffset: number,
  framing: SectionFraming = {},
): ExaminedStreamTail {
  const problems: FormatError[] = [];
  const located = searchDescription(bytes, true) ?? searchDescription(bytes, false);
  const description =
    located === undefined
      ? undefined
      : attempt(problems, () => decodeDescription(bytes, located.start, located.end, baseOffset));
  const walker = new SectionWalker(bytes, baseOffset, description?.content.devices ?? [], framing, problems);
  const walked = attempt(problems, () => walker.walk());
  const undelimited = problems.find((problem) => problem instanceof UndelimitedError);
  if (undelimited !== undefined) problems.splice(problems.indexOf(undelimited), 1);
  const eof =
    undelimited === undefined
      ? walked
      : attempt(problems, () => eofFromEnd(bytes, baseOffset, located?.start));
  if (eof !== undefined) checkBehindEof(bytes, baseOffset, eof, located?.start, problems);
  const cutOff = eof !== undefined && located === undefined && bytes[eof + 1] === SectionType.VMDESCRIPTION;
  const knownEnd = located?.end ?? (eof === undefined || cutOff ? bytes.length : eof + 1);
  return {
    baseOffset,
    sections: walker.sections,
    laterParts: walker.laterParts,
    commands: walker.commands,
    ...(eof === undefined ? {} : { eofOffset: baseOffset + eof }),
    ...(description === undefined ? {} : { description }),
    ...(undelimited === undefined ? {} : { undelimited }),
    trailingBytes: bytes.length - knownEnd,
    problems,
  };
}

/**
 * Whether the bytes end in a whole vmstate description, which is the last thing of a stream: how a receiver that must
 * answer before the source closes knows that everything has come.
 */
export function endsWithDescription(bytes: Uint8Array): boolean {
  return searchDescription(bytes, true) !== undefined;
}

class SectionWalker {
  readonly sections: DeviceSection[] = [];
  readonly laterParts: SectionPart[] = [];
  readonly commands: Command[] = [];
  readonly #reader: ByteReader;
  readonly #problems: FormatError[];
  readonly #footers: boolean;
  readonly #htabId: number | undefined;
  readonly #devices = new Map<string, DescribedDevice[]>();
  /** Place in {@link sections} of each section id. */
  readonly #indexById = new Map<number, number>();

  constructor(
    bytes: Uint8Array,
    baseOffset: number,
    devices: readonly DescribedDevice[],
    { footers = true, htabId }: SectionFraming,
    problems: FormatError[],
  ) {
    this.#reader = new ByteReader(bytes, baseOffset);
    this.#footers = footers;
    this.#htabId = htabId;
    this.#problems = problems;
    for (const device of devices) {
      const key = deviceKey(device);
      const same = this.#devices.get(key);
      if (same === undefined) this.#devices.set(key, [device]);
      else same.push(device);
    }
  }

  /** Walks all sections; returns the index of the EOF byte. */
  walk(): number {
    const reader = this.#reader;
    for (let count = 0; count <= Limits.sections; count++) {
      const { offset, position } = reader;
      const type = reader.u8();
      if (type === SectionType.EOF) return position;
      if (type === SectionType.FULL || type === SectionType.START) {
        this.#section(decodeSectionHeader(reader), offset, type === SectionType.START);
      } else if (type === SectionType.PART || type === SectionType.END) this.#laterPart(reader.u32(), offset);
      else if (type === SectionType.COMMAND) this.commands.push(decodeCommand(reader));
      else {
        throw new FormatError("malformed", "Something that is no section stands after the RAM section", {
          offset,
          actual: `0x${type.toString(16)}`,
        });
      }
    }
    throw new FormatError("limit-exceeded", `There are more than ${Limits.sections} sections`, {
      offset: reader.offset,
    });
  }

  #section(header: SectionHeader, offset: number, iterative: boolean): void {
    const described = iterative ? undefined : this.#devices.get(deviceKey(header))?.shift();
    if (described?.version !== undefined && described.version !== header.version) {
      this.#problems.push(
        new FormatError("inconsistent", "A section and its description have different versions", {
          offset,
          section: header.name,
          expected: described.version,
          actual: header.version,
        }),
      );
    }
    const payloadOffset = this.#reader.offset;
    const payloadLength = this.#skipPayload(header, described?.payloadBytes);
    this.#indexById.set(header.id, this.sections.length);
    this.sections.push({
      ...header,
      iterative,
      offset,
      length: this.#reader.offset - offset,
      payloadOffset,
      payloadLength,
    });
  }

  /** PART or END of an iterative device. */
  #laterPart(id: number, offset: number): void {
    const index = this.#indexById.get(id);
    const section = index === undefined ? undefined : this.sections[index];
    this.#skipPayload({ id, name: section?.name ?? `number ${id}` }, undefined);
    const length = this.#reader.offset - offset;
    if (index === undefined || section === undefined) this.laterParts.push({ id, offset, length });
    else this.sections[index] = { ...section, length: section.length + length };
  }

  /** Moves behind a section's footer; returns the payload's length. */
  #skipPayload(header: Pick<SectionHeader, "id" | "name">, known: number | undefined): number {
    const reader = this.#reader;
    const start = reader.position;
    if (!this.#footers) {
      if (header.id === this.#htabId) {
        const payload = new ByteReader(reader.bytes.subarray(start), reader.offset);
        skipHtabPart(payload, {});
        reader.position += payload.position;
        return payload.position;
      }
      if (known === undefined) throw new UndelimitedError(reader.offset, header.name);
      return this.#skipKnown(header, known);
    }
    if (known !== undefined) {
      const length = attempt(this.#problems, () => this.#skipKnown(header, known));
      if (length !== undefined) return length;
      // A damaged footer with something plausible behind it stands where the description says: believe the length.
      const view = new DataView(reader.bytes.buffer, reader.bytes.byteOffset, reader.bytes.byteLength);
      const behind = start + known + SECTION_FOOTER_BYTES;
      if (behind < reader.bytes.length && mayStartNext(view, behind)) {
        reader.position = behind;
        return known;
      }
      reader.position = start;
    }
    const footer = searchSectionFooter(reader.bytes, start, header.id);
    if (footer < 0) {
      throw new FormatError("truncated", "The end of a device section was not found", {
        offset: reader.offset,
        section: header.name,
      });
    }
    reader.position = footer + SECTION_FOOTER_BYTES;
    return footer - start;
  }

  #skipKnown(header: Pick<SectionHeader, "id" | "name">, length: number): number {
    const reader = this.#reader;
    if (length > reader.remaining) {
      throw new FormatError("truncated", "A device section is cut off", {
        offset: reader.offset,
        section: header.name,
        expected: `${length} bytes`,
        actual: `${reader.remaining} bytes`,
      });
    }
    reader.position += length;
    if (this.#footers) decodeSectionFooter(reader, header);
    return length;
  }
}

/** Keeps what `action` finds wrong, and returns undefined then. */
function attempt<T>(problems: FormatError[], action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    problems.push(error);
    return undefined;
  }
}

/** Index of the EOF byte where the sections do not lead to it: in front of the description, or the last byte. */
function eofFromEnd(bytes: Uint8Array, baseOffset: number, descriptionStart: number | undefined): number {
  if (descriptionStart !== undefined) return descriptionStart - DESCRIPTION_HEAD_BYTES;
  if (bytes.at(-1) === SectionType.EOF) return bytes.length - 1;
  throw new FormatError("truncated", "The stream does not end with the byte that ends a stream", {
    offset: baseOffset + bytes.length,
  });
}

function deviceKey(device: { readonly name: string; readonly instance: number }): string {
  return `${device.instance} ${device.name}`;
}

function checkBehindEof(
  bytes: Uint8Array,
  baseOffset: number,
  eof: number,
  descriptionStart: number | undefined,
  problems: FormatError[],
): void {
  const behindEof = eof + 1;
  if (descriptionStart !== undefined) {
    if (behindEof === descriptionStart - (DESCRIPTION_HEAD_BYTES - 1)) return;
    problems.push(
      new FormatError("inconsistent", "The device sections end before or after the description says", {
        offset: baseOffset + eof,
        expected: `EOF at ${baseOffset + descriptionStart - DESCRIPTION_HEAD_BYTES}`,
      }),
    );
  } else if (bytes[behindEof] === SectionType.VMDESCRIPTION) {
    problems.push(
      new FormatError("truncated", "The vmstate description is cut off", { offset: baseOffset + behindEof }),
    );
  }
}

/** Searches backwards for EOF, type byte, a length that fits, and braces around what it spans. */
function searchDescription(bytes: Uint8Array, atEnd: boolean): { start: number; end: number } | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const lowest = Math.max(0, bytes.length - DESCRIPTION_HEAD_BYTES - Limits.descriptionBytes);
  let at = bytes.length;
  while (at > lowest) {
    at = bytes.lastIndexOf(SectionType.VMDESCRIPTION, at - 1);
    if (at < 1 || at < lowest) return undefined;
    if (bytes[at - 1] !== SectionType.EOF || at + DESCRIPTION_HEAD_BYTES > bytes.length) continue;
    const start = at + DESCRIPTION_HEAD_BYTES - 1;
    const end = start + view.getUint32(at + 1);
    if (bytes[start] !== OPENING_BRACE || bytes[end - 1] !== CLOSING_BRACE) continue;
    if (atEnd ? end === bytes.length : end <= bytes.length) return { start, end };
  }
  return undefined;
}

function decodeDescription(
  bytes: Uint8Array,
  start: number,
  end: number,
  baseOffset: number,
): NonNullable<StreamTail["description"]> {
  const offset = baseOffset + start;
  const text = new ByteReader(bytes.subarray(start, end), offset).text(end - start, "vmstate description");
  return { offset, text, content: parseVmstateDescription(text, offset) };
}
