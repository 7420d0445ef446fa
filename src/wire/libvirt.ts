import { FormatError, UsageError } from "../errors/index.js";
import { ByteReader } from "./byte-reader.js";

/** What a libvirt save image holds behind its header, by the number in it (`compressed`, later `format`). */
export const LIBVIRT_FORMATS = ["raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse"] as const;

/**
 * Name of a save image's format. All but two are a migration stream through the program of that name: `raw` is the stream
 * itself, `sparse` is a mapped-ram file whose offsets count from the image's first byte.
 */
export type LibvirtFormat = (typeof LIBVIRT_FORMATS)[number];

/** The header of a libvirt save image (`virQEMUSaveHeader` in libvirt's qemu_saveimage.h), with its texts. */
export interface LibvirtSaveHeader {
  /** The header's integers are in the order of the host that wrote it. */
  readonly byteOrder: "little" | "big";
  /** Whether libvirt finished writing: an image that is being written, or was given up, has the magic of a part. */
  readonly complete: boolean;
  /** 1 or 2: 2 has a cookie. */
  readonly version: number;
  /** Whether the guest ran when it was saved, and is to run when it is restored. */
  readonly wasRunning: boolean;
  readonly format: LibvirtFormat;
  /** Bytes of the texts with the zeros behind them: libvirt leaves 64 KiB, so that the XML can be edited. */
  readonly dataBytes: number;
  /** The domain's XML. */
  readonly xml: string;
  /** Further state of libvirt's own, as XML. */
  readonly cookie?: string;
}

/** A header that was read from a file. */
export interface DecodedLibvirtSaveHeader extends LibvirtSaveHeader {
  /** Where the cookie starts, counted from the XML's first byte; 0 without one. */
  readonly cookieOffset: number;
  /** Name of the domain, when the XML has one. */
  readonly domainName?: string;
  /** Absolute offset of what follows: the migration stream, compressed or not. */
  readonly streamOffset: number;
}

/** What to write; lengths and offsets are worked out. */
export interface LibvirtSaveHeaderInput extends Omit<LibvirtSaveHeader, "dataBytes"> {
  /** Bytes for the texts: those of the image that is replaced, where offsets must stay. 64 KiB more than needed when left out. */
  readonly dataBytes?: number;
}

/** Bytes of the fixed part: magic, five used and fourteen unused 32-bit fields. */
export const LIBVIRT_HEADER_BYTES = 16 + 4 * 19;
/** Limit of XML, cookie and padding together. Real ones have 70 KiB. */
export const LIBVIRT_MAX_DATA_BYTES = 16 * 1024 * 1024;

/** Of a domain's name as the XML has it, entities and all. libvirt uses names for files, which are shorter. */
const MAX_NAME_CHARACTERS = 4096;
const MAGIC_BYTES = 16;
const MAGIC_SAVE = "LibvirtQemudSave";
const MAGIC_PART = "LibvirtQemudPart";
const VERSION = 2;
const PADDING_BYTES = 64 * 1024;
/** Offsets of the header's fields. */
const At = { version: 16, dataLength: 20, wasRunning: 24, format: 28, cookieOffset: 32 } as const;

/** Whether the first 16 bytes are those of a libvirt save image, finished or not. */
export function isLibvirtSaveImage(bytes: Uint8Array): boolean {
  const magic = magicOf(bytes);
  return magic === MAGIC_SAVE || magic === MAGIC_PART;
}

/**
 * Decodes the header and the texts behind it. An unfinished image is decoded too: `complete` says so.
 *
 * @throws FormatError `truncated`; `malformed` for another magic, a cookie outside the data or texts that are not UTF-8;
 *   `unsupported` for a version or format that libvirt 11 does not have; `limit-exceeded` for texts above 16 MiB.
 */
export function decodeLibvirtSaveHeader(reader: ByteReader): DecodedLibvirtSaveHeader {
  const offset = reader.offset;
  const head = reader.view(LIBVIRT_HEADER_BYTES);
  const magic = magicOf(head);
  if (magic !== MAGIC_SAVE && magic !== MAGIC_PART) {
    throw new FormatError("malformed", "This is not a libvirt save image", {
      offset,
      expected: MAGIC_SAVE,
      actual: magic,
    });
  }
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const { littleEndian, version } = decodeVersion(view, offset);
  const field = (at: number): number => view.getUint32(at, littleEndian);
  const dataBytes = field(At.dataLength);
  if (dataBytes === 0 || dataBytes > LIBVIRT_MAX_DATA_BYTES) {
    throw new FormatError(
      "limit-exceeded",
      "The domain XML of the libvirt save image has an impossible length",
      {
        offset: offset + At.dataLength,
        expected: `1 to ${LIBVIRT_MAX_DATA_BYTES} bytes`,
        actual: dataBytes,
      },
    );
  }
  const format = LIBVIRT_FORMATS[field(At.format)];
  if (format === undefined) {
    throw new FormatError("unsupported", "The libvirt save image has an unknown format", {
      offset: offset + At.format,
      expected: `0 to ${LIBVIRT_FORMATS.length - 1}`,
      actual: field(At.format),
    });
  }
  // Version 1 has no such field: what stands there was never defined.
  const cookieOffset = version === 1 ? 0 : field(At.cookieOffset);
  if (cookieOffset >= dataBytes) {
    throw new FormatError("malformed", "The libvirt save image's cookie lies outside of its data", {
      offset: offset + At.cookieOffset,
      expected: `below ${dataBytes}`,
      actual: cookieOffset,
    });
  }
  const dataOffset = reader.offset;
  const data = reader.view(dataBytes);
  const xmlEnd = cookieOffset === 0 ? dataBytes : cookieOffset;
  const xml = decodeText(data.subarray(0, xmlEnd), dataOffset, "domain XML");
  const cookie =
    cookieOffset === 0
      ? undefined
      : decodeText(data.subarray(cookieOffset), dataOffset + cookieOffset, "cookie");
  const domainName = findDomainName(xml);
  return {
    byteOrder: littleEndian ? "little" : "big",
    complete: magic === MAGIC_SAVE,
    version,
    wasRunning: field(At.wasRunning) !== 0,
    format,
    dataBytes,
    xml,
    ...(cookie === undefined ? {} : { cookie }),
    cookieOffset,
    ...(domainName === undefined ? {} : { domainName }),
    streamOffset: reader.offset,
  };
}

/**
 * Encodes a header with its texts; the migration stream follows right behind. A `sparse` image's page offsets are
 * absolute: they hold only for a header of the length they were made for (`dataBytes`).
 *
 * @throws UsageError when the texts hold a NUL or do not fit.
 */
export function encodeLibvirtSaveHeader(header: LibvirtSaveHeaderInput): Uint8Array {
  const encoder = new TextEncoder();
  const xml = encoder.encode(header.xml);
  const cookie = header.cookie === undefined ? undefined : encoder.encode(header.cookie);
  if (xml.includes(0) || cookie?.includes(0) === true) {
    throw new UsageError("The texts of a libvirt save image cannot hold a NUL character");
  }
  if (cookie !== undefined && header.version < VERSION) {
    throw new UsageError("A libvirt save image of version 1 has no cookie");
  }
  const needed = xml.length + 1 + (cookie === undefined ? 0 : cookie.length + 1);
  const dataBytes = header.dataBytes ?? needed + PADDING_BYTES;
  if (needed > dataBytes || dataBytes > LIBVIRT_MAX_DATA_BYTES) {
    throw new UsageError("The texts do not fit into the libvirt save image's header", {
      expected: `at most ${Math.min(dataBytes, LIBVIRT_MAX_DATA_BYTES)} bytes`,
      actual: needed,
    });
  }
  const bytes = new Uint8Array(LIBVIRT_HEADER_BYTES + dataBytes);
  bytes.set(encoder.encode(header.complete ? MAGIC_SAVE : MAGIC_PART));
  const view = new DataView(bytes.buffer);
  const field = (at: number, value: number): void => view.setUint32(at, value, header.byteOrder === "little");
  field(At.version, header.version);
  field(At.dataLength, dataBytes);
  field(At.wasRunning, header.wasRunning ? 1 : 0);
  field(At.format, LIBVIRT_FORMATS.indexOf(header.format));
  bytes.set(xml, LIBVIRT_HEADER_BYTES);
  if (cookie !== undefined) {
    field(At.cookieOffset, xml.length + 1);
    bytes.set(cookie, LIBVIRT_HEADER_BYTES + xml.length + 1);
  }
  return bytes;
}

function magicOf(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes.subarray(0, MAGIC_BYTES));
}

/** The version is small: read in the wrong order it is huge. That is how libvirt tells the order, too. */
function decodeVersion(view: DataView, offset: number): { littleEndian: boolean; version: number } {
  for (const littleEndian of [true, false]) {
    const version = view.getUint32(At.version, littleEndian);
    if (version >= 1 && version <= VERSION) return { littleEndian, version };
  }
  throw new FormatError("unsupported", "The libvirt save image has an unknown version", {
    offset: offset + At.version,
    expected: `1 or ${VERSION}`,
    actual: view.getUint32(At.version, true),
  });
}

/** Text up to its NUL; what is behind it is padding, or what an earlier and longer text left. */
function decodeText(bytes: Uint8Array, offset: number, what: string): string {
  const end = bytes.indexOf(0);
  if (end < 0) throw new FormatError("malformed", `The libvirt save image's ${what} has no end`, { offset });
  return new ByteReader(bytes, offset).text(end, `libvirt save image's ${what}`);
}

/**
 * The text of `<name>` right inside `<domain>`: nothing but what finding it safely takes of XML. Comments, CDATA and
 * instructions are skipped; a document type is not followed: libvirt writes none, and entities of its own would come
 * from there.
 *
 * @returns Undefined when there is none, or the XML is none that libvirt writes.
 */
export function findDomainName(xml: string): string | undefined {
  let depth = 0;
  for (let at = xml.indexOf("<"); at >= 0; at = xml.indexOf("<", at)) {
    const skipped = skipNonElement(xml, at);
    if (skipped !== undefined) {
      at = skipped;
      continue;
    }
    const end = endOfTag(xml, at);
    if (end === undefined) return undefined;
    const closes = xml[at + 1] === "/";
    const name = /^[^\s/>]*/.exec(xml.slice(at + 1, Math.min(end, at + 64)))?.[0];
    const isEmpty = xml[end - 1] === "/";
    if (depth === 0 && name !== "domain") return undefined;
    if (depth === 1 && name === "name" && !isEmpty) {
      const text = xml.slice(end + 1, Math.max(end + 1, xml.indexOf("<", end)));
      const isName = text.length <= MAX_NAME_CHARACTERS && xml.startsWith("</name", end + 1 + text.length);
      return isName ? decodeEntities(text.trim()) : undefined;
    }
    if (closes) depth -= 1;
    else if (!isEmpty) depth += 1;
    if (depth <= 0) return undefined;
    at = end;
  }
  return undefined;
}

/** Index behind a comment, CDATA or instruction at `at`; the text's length where it has no end or is a document type. */
function skipNonElement(xml: string, at: number): number | undefined {
  const kinds = [
    ["<!--", "-->"],
    ["<![CDATA[", "]]>"],
    ["<?", "?>"],
  ] as const;
  for (const [opening, closing] of kinds) {
    if (!xml.startsWith(opening, at)) continue;
    const end = xml.indexOf(closing, at + opening.length);
    return end < 0 ? xml.length : end + closing.length;
  }
  return xml.startsWith("<!", at) ? xml.length : undefined;
}

/** Index of the `>` that ends the tag at `at`: one inside an attribute's quotes does not. */
function endOfTag(xml: string, at: number): number | undefined {
  let quote: string | undefined;
  for (let index = at + 1; index < xml.length; index++) {
    const character = xml[index];
    if (quote !== undefined) quote = character === quote ? undefined : quote;
    else if (character === '"' || character === "'") quote = character;
    else if (character === ">") return index;
  }
  return undefined;
}

const ENTITIES: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", apos: "'", quot: '"' };

/** Entities of XML itself and character references; anything else stays as it is. */
function decodeEntities(text: string): string {
  return text.replace(/&(#x[0-9a-f]{1,6}|#[0-9]{1,7}|[a-z]{1,4});/gi, (whole, entity: string) => {
    if (!entity.startsWith("#")) return Object.hasOwn(ENTITIES, entity) ? (ENTITIES[entity] ?? whole) : whole;
    const code = /^#x/i.test(entity) ? parseInt(entity.slice(2), 16) : parseInt(entity.slice(1), 10);
    const isCharacter = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
    return isCharacter ? String.fromCodePoint(code) : whole;
  });
}
