import { FormatError } from "../errors/index.js";
import { ByteReader } from "./byte-reader.js";
import { type Command, decodeCommand } from "./command.js";
import { Limits, MigrationCommand, RamFlag, SectionType } from "./constants.js";
import { decodeStreamTail, type DeviceSection, type StreamTail } from "./device-sections.js";
import { mayStartNext } from "./footer-search.js";
import { decodeSectionHeader, SECTION_FOOTER_BYTES, type SectionHeader } from "./section.js";
import { parseVmstateDescription, type VmstateDescription } from "./vmstate-description.js";

/**
 * Reads from the file: the bytes at `position`, `length` of them. Fewer than asked for make the search give up, and what
 * it throws passes through.
 */
export type ReadAt = (position: number, length: number) => Uint8Array;

/** What is known of the file beforehand. */
export interface TailSearchOptions {
  /** Section id of `ram`, as its START says: without it any id is believed. */
  readonly ramSectionId?: number;
  /** Where the stream starts: nothing before it is read. */
  readonly streamOffset?: number;
}

/** EOF, type byte and be32 length. */
const DESCRIPTION_HEAD_BYTES = 6;
const OPENING_BRACE = 0x7b;
/** be64 EOS and the footer: how the last part of the RAM section ends. */
const RAM_END_BYTES = 8 + SECTION_FOOTER_BYTES;
const COMMAND_HEAD_BYTES = 1 + 2 + 2;
/** More than any command has that may stand between device sections. */
const MAX_COMMAND_DATA_BYTES = 64;
const CHUNK_BYTES = 256 * 1024;
const FIRST_TAIL_BYTES = 256 * 1024;
/** Places that look like the end of RAM and are tried out. */
const MAX_CANDIDATES = 64;
/** Bytes behind such places, added up: each one costs a decoding of all that follows, the description too. */
const MAX_TRIED_BYTES = 64 * 1024 * 1024;

/**
 * Finds what follows the RAM section from the end of the file: the vmstate description there says how long each device
 * section is, so that the bytes of RAM, of which there may be gigabytes, need not be walked.
 *
 * Where the description does not say it, or is wrong, the RAM section's end is searched for backwards and everything
 * from there is walked forwards.
 *
 * @param sizeBytes The file's size; its last byte is the description's last.
 * @returns What {@link decodeStreamTail} returns for the bytes from the RAM section's end on, which is at `baseOffset`.
 *   Undefined when it cannot be found for sure, and the stream has to be walked from its start: without a description
 *   (postcopy streams, machine types older than 2.3), without section footers (machine types older than 2.4), with
 *   anything behind the description, or where two places could be the end of RAM.
 */
export function searchStreamTail(
  read: ReadAt,
  sizeBytes: number,
  options: TailSearchOptions = {},
): StreamTail | undefined {
  const window = new ReadWindow(read, options.streamOffset ?? 0, sizeBytes);
  try {
    const description = findDescription(window);
    if (description === undefined) return undefined;
    const eofOffset = description.offset - DESCRIPTION_HEAD_BYTES;
    const chain = new SectionChain(window, description.content, eofOffset, options.ramSectionId);
    const whole = chain.follow();
    if (whole) {
      const { position: baseOffset, sections, commands } = chain;
      return { baseOffset, sections, laterParts: [], commands, eofOffset, description, trailingBytes: 0 };
    }
    return searchRamEnd(window, chain.position, description.content, options.ramSectionId);
  } catch (error) {
    // What is damaged is for the forward walk to say.
    if (error instanceof FormatError || error instanceof ShortReadError) return undefined;
    throw error;
  }
}

/** The read function returned less than the file's size promises. */
class ShortReadError extends Error {}

/** Bytes near a place that moves backwards. */
class ReadWindow {
  readonly start: number;
  readonly end: number;
  readonly #read: ReadAt;
  #offset = 0;
  #bytes = new Uint8Array(0);

  constructor(read: ReadAt, start: number, end: number) {
    this.#read = read;
    this.start = start;
    this.end = end;
  }

  /** The bytes from `from` up to `to`: undefined when they are not all in the file. Valid until the next call. */
  bytes(from: number, to: number): Uint8Array | undefined {
    if (from < this.start || to > this.end || from > to) return undefined;
    if (from < this.#offset || to > this.#offset + this.#bytes.length) {
      const offset = Math.max(this.start, Math.min(from, to - CHUNK_BYTES));
      const bytes = this.#read(offset, to - offset);
      if (bytes.length < to - offset) throw new ShortReadError("The file is shorter than its size");
      // A reader may use one buffer again and again.
      this.#bytes = bytes.slice(0, to - offset);
      this.#offset = offset;
    }
    return this.#bytes.subarray(from - this.#offset, to - this.#offset);
  }
}

function findDescription(window: ReadWindow): NonNullable<StreamTail["description"]> | undefined {
  const longest = Math.min(window.end - window.start, Limits.descriptionBytes + DESCRIPTION_HEAD_BYTES);
  for (let length = Math.min(longest, FIRST_TAIL_BYTES); ; length = Math.min(longest, length * 8)) {
    const start = window.end - length;
    const bytes = window.bytes(start, window.end);
    if (bytes === undefined) return undefined;
    const at = descriptionIn(bytes);
    if (at !== undefined) {
      const offset = start + at;
      const text = new ByteReader(bytes.subarray(at), offset).text(bytes.length - at, "vmstate description");
      return { offset, text, content: parseVmstateDescription(text, offset) };
    }
    if (length === longest) return undefined;
  }
}

/** Index of the description's text, which reaches to the end of the bytes. */
function descriptionIn(bytes: Uint8Array): number | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = bytes.length;
  while (at > 0) {
    at = bytes.lastIndexOf(SectionType.VMDESCRIPTION, at - 1);
    if (at < 1) return undefined;
    const start = at + DESCRIPTION_HEAD_BYTES - 1;
    const fits = start < bytes.length && start + view.getUint32(at + 1) === bytes.length;
    if (fits && bytes[at - 1] === SectionType.EOF && bytes[start] === OPENING_BRACE) return start;
  }
  return undefined;
}

/** Device sections, last one first, each one verified before the step to the one before it. */
class SectionChain {
  /** Where the first section found so far begins. */
  position: number;
  readonly sections: DeviceSection[] = [];
  readonly commands: Command[] = [];
  readonly #window: ReadWindow;
  readonly #devices: VmstateDescription["devices"];
  readonly #ramSectionId: number | undefined;

  constructor(
    window: ReadWindow,
    description: VmstateDescription,
    eofOffset: number,
    ramSectionId: number | undefined,
  ) {
    this.#window = window;
    this.#devices = description.devices;
    this.position = eofOffset;
    this.#ramSectionId = ramSectionId;
  }

  /** Goes back to the end of the RAM section; false when that is not where the description leads. */
  follow(): boolean {
    const { sections, commands } = this;
    let next = this.#devices.length - 1;
    while (sections.length + commands.length <= Limits.sections) {
      const section = this.#section(next);
      const command = section === undefined && !this.#isRamEnd() ? this.#command() : undefined;
      if (section !== undefined) {
        sections.push(section);
        this.position = section.offset;
        next -= 1;
      } else if (command !== undefined) commands.push(command);
      else break;
    }
    sections.reverse();
    commands.reverse();
    // Devices that are left were sent before RAM, and are described first.
    return this.#isRamEnd();
  }

  #section(index: number): DeviceSection | undefined {
    const device = this.#devices[index];
    if (device?.payloadBytes === undefined) return undefined;
    const headBytes = 1 + 4 + 1 + new TextEncoder().encode(device.name).length + 4 + 4;
    const length = headBytes + device.payloadBytes + SECTION_FOOTER_BYTES;
    const end = this.position;
    const offset = end - length;
    const footer = this.#window.bytes(end - SECTION_FOOTER_BYTES, end);
    if (footer?.[0] !== SectionType.FOOTER) return undefined;
    const id = be32(footer, 1);
    const head = this.#window.bytes(offset, offset + headBytes);
    if (head?.[0] !== SectionType.FULL) return undefined;
    const header = decodeHeader(head, offset);
    if (header?.id !== id || header.name !== device.name || header.instance !== device.instance)
      return undefined;
    if (device.version !== undefined && device.version !== header.version) return undefined;
    return {
      ...header,
      iterative: false,
      offset,
      length,
      payloadOffset: offset + headBytes,
      payloadLength: device.payloadBytes,
    };
  }

  #isRamEnd(): boolean {
    const bytes = this.#window.bytes(this.position - RAM_END_BYTES, this.position);
    return bytes !== undefined && isRamEnd(bytes, 0, this.#ramSectionId);
  }

  /** A command that ends here; moves before it. */
  #command(): Command | undefined {
    const end = this.position;
    for (let length = 0; length <= MAX_COMMAND_DATA_BYTES; length++) {
      const bytes = this.#window.bytes(end - COMMAND_HEAD_BYTES - length, end);
      if (bytes?.[0] !== SectionType.COMMAND || be16(bytes, 3) !== length) continue;
      if (be16(bytes, 1) > MigrationCommand.SWITCHOVER_START || be16(bytes, 1) === 0) continue;
      this.position = end - bytes.length;
      return decodeCommand(new ByteReader(bytes.subarray(1), this.position + 1));
    }
    return undefined;
  }
}

/**
 * Searches backwards from `from` for the end of RAM from which everything can be walked forwards.
 *
 * @returns Undefined when there is none, or more than one.
 */
function searchRamEnd(
  window: ReadWindow,
  from: number,
  description: VmstateDescription,
  ramSectionId: number | undefined,
): StreamTail | undefined {
  const lowest = Math.max(window.start, from - Limits.searchedSectionBytes);
  let found: StreamTail | undefined;
  let candidates = 0;
  let triedBytes = 0;
  for (let end = from; end > lowest + RAM_END_BYTES; end -= CHUNK_BYTES) {
    const start = Math.max(lowest, end - CHUNK_BYTES - RAM_END_BYTES);
    const chunk = window.bytes(start, end)?.slice();
    if (chunk === undefined) return undefined;
    for (const at of ramEndsIn(chunk, ramSectionId)) {
      const base = start + at + RAM_END_BYTES;
      // The overlap of two chunks shows the same place twice.
      if (base <= end - CHUNK_BYTES && start > lowest) continue;
      if (++candidates > MAX_CANDIDATES || triedBytes > MAX_TRIED_BYTES) return undefined;
      triedBytes += window.end - base;
      const outcome = tryRamEnd(window, base, be32(chunk, at + 9), description);
      // Before the end of RAM stand its other parts, which end in the same way: the search is over.
      if (outcome === "ram-follows") return found;
      if (outcome === undefined) continue;
      if (found !== undefined) return undefined;
      found = outcome;
    }
  }
  return found;
}

/** Indices of what looks like the end of a RAM section's part, the last one first. */
function* ramEndsIn(bytes: Uint8Array, ramSectionId: number | undefined): Generator<number, void, undefined> {
  const footerType = SectionType.FOOTER;
  const endOfPages = RamFlag.EOS;
  // Byte by byte: a search for each footer's byte takes long in a file that is full of them.
  for (let at = bytes.length - SECTION_FOOTER_BYTES; at >= 8; at--) {
    if (bytes[at] !== footerType || bytes[at - 1] !== endOfPages) continue;
    if (isRamEnd(bytes, at - 8, ramSectionId)) yield at - 8;
  }
}

function tryRamEnd(
  window: ReadWindow,
  base: number,
  ramSectionId: number,
  description: VmstateDescription,
): StreamTail | "ram-follows" | undefined {
  const bytes = window.bytes(base, window.end);
  if (bytes === undefined) return undefined;
  if (!mayStartNext(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0)) return undefined;
  const partType = bytes[0];
  const isPart = partType === SectionType.PART || partType === SectionType.END;
  if (isPart && bytes.length > 4 && be32(bytes, 1) === ramSectionId) return "ram-follows";
  try {
    const tail = decodeStreamTail(bytes, base);
    const parts = tail.laterParts.some(({ id }) => id === ramSectionId);
    return parts ? "ram-follows" : endsDescription(tail, description) ? tail : undefined;
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
}

/** Whether the sections are the last ones of the description: only devices that were sent before RAM may be missing. */
function endsDescription(tail: StreamTail, { devices }: VmstateDescription): boolean {
  const sections = tail.sections.filter(({ iterative }) => !iterative);
  const missing = devices.length - sections.length;
  return (
    missing >= 0 &&
    sections.every(({ name, instance }, index) => {
      const device = devices[missing + index];
      return device?.name === name && device.instance === instance;
    })
  );
}

function isRamEnd(bytes: Uint8Array, at: number, ramSectionId: number | undefined): boolean {
  if (be32(bytes, at) !== 0 || be32(bytes, at + 4) !== RamFlag.EOS || bytes[at + 8] !== SectionType.FOOTER)
    return false;
  const id = be32(bytes, at + 9);
  return ramSectionId === undefined ? id < Limits.sections : id === ramSectionId;
}

function decodeHeader(head: Uint8Array, offset: number): SectionHeader | undefined {
  const reader = new ByteReader(head.subarray(1), offset + 1);
  try {
    const header = decodeSectionHeader(reader);
    return reader.remaining === 0 ? header : undefined;
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
}

function be16(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint16(at);
}

function be32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at);
}
