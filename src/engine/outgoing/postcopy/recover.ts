import {
  ByteWriter,
  encodeCommand,
  MigrationCommand,
  plainCommand,
  receivedBitmapCommand,
} from "../../../wire/index.js";
import type { PostcopyConnection, PreemptChannel } from "./connection.js";
import type { PageServer } from "./page-server.js";
import type { PageSource } from "./page-source.js";

/**
 * Takes up a paused postcopy migration over a new connection: asks what the destination has, block by block, and makes it
 * go on. It asks for what it waits for once more, so nothing has to be known of the connection before: a process that has
 * only the pages can do it.
 *
 * @param preempt Another preempt channel, where there was one.
 * @throws The connection's failure.
 */
export async function recoverPostcopy(
  connection: PostcopyConnection,
  server: PageServer,
  source: PageSource,
  preempt: PreemptChannel | undefined,
): Promise<void> {
  connection.passRequestsOver();
  const writer = new ByteWriter();
  const adopting = adoptReceived(connection, server, source);
  // A destination that wants both channels answers only then.
  if (preempt !== undefined) await connection.openPreempt(preempt, adopting);
  await adopting;
  encodeCommand(writer.clear(), plainCommand(MigrationCommand.POSTCOPY_RESUME));
  await connection.write(writer.finish());
  await connection.resumeAck();
}

async function adoptReceived(
  connection: PostcopyConnection,
  server: PageServer,
  source: PageSource,
): Promise<void> {
  const writer = new ByteWriter();
  for (const [index, { name }] of source.blocks.entries()) {
    encodeCommand(writer.clear(), receivedBitmapCommand(name));
    await connection.write(writer.finish());
    server.sent.adoptReceived(index, await connection.receivedBitmap(name));
  }
}
