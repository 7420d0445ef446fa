import { FormatError, printable } from "../errors/index.js";
import type { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import { Limits, SectionType } from "./constants.js";

/** What the CONFIGURATION section says of the source machine (`vmstate_configuration` in QEMU's savevm.c). */
export interface Configuration {
  /** Machine type with its version, e.g. `pc-i440fx-10.0`. The destination must be the same. */
  readonly machine: string;
  /** Only sent by targets whose page size varies (arm), when it is not their default. */
  readonly targetPageBits?: number;
  /** Capabilities that the destination must have on too: `x-ignore-shared` and `mapped-ram`, in QEMU's order. */
  readonly capabilities: readonly string[];
  /** 16 bytes, sent with the validate-uuid capability. */
  readonly uuid?: Uint8Array;
}

const Subsection = {
  targetPageBits: "configuration/target-page-bits",
  capabilities: "configuration/capabilities",
  uuid: "configuration/uuid",
} as const;

const SUBSECTION_VERSION = 1;

/**
 * Decodes the payload of a CONFIGURATION section, after its type byte.
 *
 * The subsections have no count: they go on as long as the next byte says SUBSECTION, so one byte beyond the
 * configuration must be readable.
 *
 * @throws FormatError `malformed`, `unsupported` or `limit-exceeded`.
 */
export function decodeConfiguration(reader: ByteReader): Configuration {
  const lengthOffset = reader.offset;
  const nameBytes = reader.u32();
  if (nameBytes === 0 || nameBytes > Limits.machineNameBytes) {
    throw new FormatError("limit-exceeded", "The machine type's name has an impossible length", {
      offset: lengthOffset,
      expected: `1 to ${Limits.machineNameBytes}`,
      actual: nameBytes,
    });
  }
  const machine = reader.text(nameBytes, "machine type");
  let targetPageBits: number | undefined;
  let capabilities: readonly string[] = [];
  let uuid: Uint8Array | undefined;
  for (let count = 0; peekU8(reader) === SectionType.SUBSECTION; count++) {
    const offset = reader.offset;
    if (count === Limits.subsections) {
      throw new FormatError("limit-exceeded", "The configuration has too many subsections", { offset });
    }
    reader.u8();
    const name = reader.idstr("configuration subsection's name");
    const version = reader.u32();
    if (version !== SUBSECTION_VERSION) {
      const message = `The configuration subsection ${printable(name)} has an unknown version`;
      throw new FormatError("unsupported", message, {
        offset,
        expected: SUBSECTION_VERSION,
        actual: version,
      });
    }
    if (name === Subsection.targetPageBits) targetPageBits = decodeTargetPageBits(reader);
    else if (name === Subsection.capabilities) capabilities = decodeCapabilities(reader);
    else if (name === Subsection.uuid) uuid = reader.view(16).slice();
    else {
      throw new FormatError("unsupported", "The configuration has a subsection that ramport does not know", {
        offset,
        actual: name,
      });
    }
  }
  return {
    machine,
    capabilities,
    ...(targetPageBits === undefined ? {} : { targetPageBits }),
    ...(uuid === undefined ? {} : { uuid }),
  };
}

/** Encodes the payload of a CONFIGURATION section, subsections in QEMU's order. */
export function encodeConfiguration(writer: ByteWriter, configuration: Configuration): void {
  const name = new TextEncoder().encode(configuration.machine);
  writer.u32(name.length).raw(name);
  const subsection = (subsectionName: string): ByteWriter =>
    writer.u8(SectionType.SUBSECTION).idstr(subsectionName).u32(SUBSECTION_VERSION);
  if (configuration.targetPageBits !== undefined) {
    subsection(Subsection.targetPageBits).u32(configuration.targetPageBits);
  }
  if (configuration.capabilities.length > 0) {
    subsection(Subsection.capabilities).u32(configuration.capabilities.length);
    for (const capability of configuration.capabilities) writer.idstr(capability);
  }
  if (configuration.uuid !== undefined) subsection(Subsection.uuid).raw(configuration.uuid);
}

/** Bytes of a target page, where the source says it. */
export function targetPageSizeOf(configuration: Configuration | undefined): number | undefined {
  const bits = configuration?.targetPageBits;
  return bits === undefined ? undefined : 2 ** bits;
}

/** A UUID's 16 bytes in the usual notation. */
export function formatUuid(uuid: Uint8Array): string {
  const hex = Array.from(uuid, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

function decodeTargetPageBits(reader: ByteReader): number {
  const offset = reader.offset;
  const bits = reader.u32();
  const size = 2 ** bits;
  if (size < Limits.minTargetPageSize || size > Limits.maxTargetPageSize) {
    throw new FormatError("unsupported", "The target page size is out of range", {
      offset,
      expected: "8 to 16 bits",
      actual: bits,
    });
  }
  return bits;
}

function decodeCapabilities(reader: ByteReader): string[] {
  const offset = reader.offset;
  const count = reader.u32();
  if (count > Limits.capabilities) {
    throw new FormatError("limit-exceeded", "The configuration lists too many capabilities", {
      offset,
      expected: `at most ${Limits.capabilities}`,
      actual: count,
    });
  }
  return Array.from({ length: count }, () => reader.idstr("capability's name"));
}

function peekU8(reader: ByteReader): number {
  const value = reader.u8();
  reader.position -= 1;
  return value;
}
