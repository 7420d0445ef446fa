import { ByteWriter, type Command, encodeCommand } from "../../../wire/index.js";

/** A command as it stands between two sections. */
export function encodedCommand(command: Command): Uint8Array {
  const writer = new ByteWriter();
  encodeCommand(writer, command);
  return writer.finish();
}
