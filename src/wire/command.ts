import { FormatError } from "../errors/index.js";
import type { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import { MigrationCommand, SectionType } from "./constants.js";

/** A COMMAND of the main channel. */
export interface Command {
  /** One of {@link MigrationCommand}. */
  readonly command: number;
  /** The command's own bytes; those of PACKAGED's nested stream are not among them. */
  readonly data: Uint8Array;
}

const KNOWN_COMMANDS: ReadonlySet<number> = new Set(Object.values(MigrationCommand));

/**
 * Decodes a COMMAND, after its type byte.
 *
 * @throws FormatError `unsupported` for a command that QEMU 11.1 does not have.
 */
export function decodeCommand(reader: ByteReader): Command {
  const offset = reader.offset;
  const command = reader.u16();
  if (!KNOWN_COMMANDS.has(command)) {
    throw new FormatError("unsupported", "The stream has an unknown command", { offset, actual: command });
  }
  const length = reader.u16();
  return { command, data: reader.view(length).slice() };
}

/** Encodes a COMMAND with its type byte. */
export function encodeCommand(writer: ByteWriter, { command, data }: Command): void {
  writer.u8(SectionType.COMMAND).u16(command).u16(data.length).raw(data);
}
