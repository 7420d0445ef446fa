import type { ByteSink } from "../../../channels/index.js";
import {
  ByteWriter,
  encodeCommand,
  MigrationCommand,
  plainCommand,
  receivedBitmapCommand,
} from "../../../wire/index.js";
import type { PostcopyConnection } from "./connection.js";
import type { PageServer } from "./page-server.js";
import type { PageSource } from "./page-source.js";

/**
 * Takes up a paused postcopy migration over a new connection: asks what the destination has, block by block, and makes it
 * go on. It asks for what it waits for once more, so nothing has to be known of the connection before: a process that has
 * only the pages can do it.
 *
 * @param connectPreempt Opens another preempt channel, where there was one: a destination takes it once it has answered on
 *   the main one.
 * @throws The connection's failure.
 */
export async function recoverPostcopy(
  connection: PostcopyConnection,
  server: PageServer,
  source: PageSource,
  connectPreempt: (() => Promise<ByteSink>) | undefined,
): Promise<void> {
  const writer = new ByteWriter();
  for (const [index, { name }] of source.blocks.entries()) {
    encodeCommand(writer.clear(), receivedBitmapCommand(name));
    await connection.write(writer.finish());
    server.sent.adoptReceived(index, await connection.receivedBitmap(name));
  }
  if (connectPreempt !== undefined) await connection.openPreempt(connectPreempt);
  encodeCommand(writer.clear(), plainCommand(MigrationCommand.POSTCOPY_RESUME));
  await connection.write(writer.finish());
  await connection.resumeAck();
}
