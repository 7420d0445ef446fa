import type { ByteSink } from "../../channels/index.js";
import { ByteWriter, encodeMultifdHello, type MultifdHello } from "../../wire/index.js";

/**
 * Begins a channel: says which one it is. To be called as soon as the connection stands, before the next one is made: QEMU
 * waits for these bytes and does nothing else meanwhile, not even the TLS handshake of the next connection.
 *
 * @param hello `uuid` is the destination's own, 16 bytes, zeros where it has none; `id` counts the channels from 0.
 */
export async function sendMultifdHello(channel: ByteSink, hello: MultifdHello): Promise<void> {
  const writer = new ByteWriter();
  encodeMultifdHello(writer, hello);
  await channel.write(writer.finish());
}
