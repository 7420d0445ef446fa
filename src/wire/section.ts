import { FormatError } from "../errors/index.js";
import type { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import {
  QEMU_VM_FILE_MAGIC,
  QEMU_VM_FILE_VERSION,
  QEMU_VM_FILE_VERSION_COMPAT,
  SectionType,
} from "./constants.js";

/** `MULTIFD_MAGIC` of QEMU's `migration/multifd.c`: how each further channel begins. */
const MULTIFD_MAGIC = 0x11223344;

/** What stands at the head of a SECTION_START or SECTION_FULL, after its type byte. */
export interface SectionHeader {
  readonly id: number;
  /** `idstr`: the device's path and name, or `ram`. */
  readonly name: string;
  readonly instance: number;
  readonly version: number;
}

/** Bytes of a section footer: type and section id. */
export const SECTION_FOOTER_BYTES = 5;

/** What a TLS client begins with: the type of a handshake record (22), and a version as TLS 1.0 to 1.3 write it there. */
const TLS_HANDSHAKES: ReadonlySet<number> = new Set([0x16_03_01, 0x16_03_02, 0x16_03_03]);

/**
 * Decodes the eight bytes that open a stream.
 *
 * @throws FormatError `malformed` (not a migration stream) or `unsupported` (another version, a multifd channel,
 *   TLS).
 */
export function decodeFileHeader(reader: ByteReader): void {
  const offset = reader.offset;
  const magic = reader.u32();
  if (magic === MULTIFD_MAGIC) {
    throw new FormatError("unsupported", "This is one of several channels that a migration is spread over", {
      offset,
      hint: "turn the multifd capability off at the source",
    });
  }
  if (TLS_HANDSHAKES.has(magic >>> 8)) {
    throw new FormatError(
      "unsupported",
      "The source uses TLS, and this side was given no credentials for it",
      {
        offset,
        hint: "use --tls-creds-x509 or --tls-psk, or clear tls-creds at the source",
      },
    );
  }
  if (magic !== QEMU_VM_FILE_MAGIC) {
    throw new FormatError("malformed", "This is not a QEMU migration stream", {
      offset,
      expected: `magic 0x${QEMU_VM_FILE_MAGIC.toString(16)}`,
      actual: `0x${magic.toString(16).padStart(8, "0")}`,
    });
  }
  const version = reader.u32();
  if (version === QEMU_VM_FILE_VERSION) return;
  const obsolete = version === QEMU_VM_FILE_VERSION_COMPAT ? "an obsolete" : "an unknown";
  throw new FormatError("unsupported", `The migration stream has ${obsolete} version`, {
    offset: offset + 4,
    expected: QEMU_VM_FILE_VERSION,
    actual: version,
  });
}

/** Encodes the eight bytes that open a stream. */
export function encodeFileHeader(writer: ByteWriter): void {
  writer.u32(QEMU_VM_FILE_MAGIC).u32(QEMU_VM_FILE_VERSION);
}

/** Decodes a section's header, after its type byte (START or FULL). */
export function decodeSectionHeader(reader: ByteReader): SectionHeader {
  return {
    id: reader.u32(),
    name: reader.idstr("section's name"),
    instance: reader.u32(),
    version: reader.u32(),
  };
}

/** Encodes a section's type byte (START or FULL) and header. */
export function encodeSectionHeader(
  writer: ByteWriter,
  type: typeof SectionType.START | typeof SectionType.FULL,
  header: SectionHeader,
): void {
  writer.u8(type).u32(header.id).idstr(header.name).u32(header.instance).u32(header.version);
}

/**
 * Decodes the footer that closes a section.
 *
 * @throws FormatError `malformed` when it is not there or names another section: what was read before it had another
 *   length than the reader thought.
 */
export function decodeSectionFooter(reader: ByteReader, header: Pick<SectionHeader, "id" | "name">): void {
  const offset = reader.offset;
  const type = reader.u8();
  if (type !== SectionType.FOOTER) {
    throw new FormatError("malformed", "A section does not end where it should", {
      offset,
      section: header.name,
      expected: "footer 0x7e",
      actual: `0x${type.toString(16)}`,
    });
  }
  const id = reader.u32();
  if (id !== header.id) {
    throw new FormatError("malformed", "A section's footer has the number of another section", {
      offset,
      section: header.name,
      expected: header.id,
      actual: id,
    });
  }
}

/** Encodes a section's footer. */
export function encodeSectionFooter(writer: ByteWriter, id: number): void {
  writer.u8(SectionType.FOOTER).u32(id);
}

/** Skips the type byte in front of a structure whose decoder begins behind it. */
export function afterType(reader: ByteReader): ByteReader {
  reader.u8();
  return reader;
}
