import type { ByteSink } from "../../channels/index.js";
import { ByteWriter, encodePong, encodeShut } from "../../wire/index.js";

/** Answers a PING. */
export async function sendPong(returnPath: ByteSink, value: number): Promise<void> {
  const writer = new ByteWriter();
  encodePong(writer, value);
  await returnPath.write(writer.finish());
}

/** Tells the source that all is well: its guest may go. */
export async function sendShut(returnPath: ByteSink): Promise<void> {
  const writer = new ByteWriter();
  encodeShut(writer, 0);
  await returnPath.write(writer.finish());
}
