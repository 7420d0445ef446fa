import { FormatError } from "../errors/index.js";
import type { ByteReader } from "./byte-reader.js";
import type { ByteWriter } from "./byte-writer.js";
import { MigrationCommand, ReturnPathMessage, SectionType } from "./constants.js";

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

/** Encodes the return path's answer to a PING. */
export function encodePong(writer: ByteWriter, value: number): void {
  writer.u16(ReturnPathMessage.PONG).u16(4).u32(value);
}

/** Encodes the return path's last message; `result` 0 tells the source that the load succeeded. */
export function encodeShut(writer: ByteWriter, result: number): void {
  writer.u16(ReturnPathMessage.SHUT).u16(4).u32(result);
}

/** A message of the return path, destination to source. */
export interface ReturnPathRecord {
  /** One of {@link ReturnPathMessage}. */
  readonly type: number;
  readonly data: Uint8Array;
}

const KNOWN_MESSAGES: ReadonlySet<number> = new Set(Object.values(ReturnPathMessage));

/**
 * Decodes a message of the return path.
 *
 * @throws FormatError `malformed` for a message that no QEMU sends.
 */
export function decodeReturnPathRecord(reader: ByteReader): ReturnPathRecord {
  const offset = reader.offset;
  const type = reader.u16();
  const length = reader.u16();
  if (!KNOWN_MESSAGES.has(type)) {
    throw new FormatError("malformed", "The destination sent an unknown message", { offset, actual: type });
  }
  return { type, data: reader.view(length).slice() };
}
