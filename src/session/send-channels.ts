import {
  connectSocket,
  formatMigrationUri,
  type OpenChannelOptions,
  type SocketChannel,
} from "../channels/index.js";
import { MachineError, throwIfAborted } from "../errors/index.js";
import type { SocketUri } from "./via.js";

/** How each connection is made. */
type Connecting = Pick<OpenChannelOptions, "signal" | "tls">;

/**
 * Opens the extra connections of a multifd migration, one after the other: QEMU before 8.0 takes the first connection that
 * comes for the main channel, so that one has to stand already.
 *
 * @throws MachineError `io` or `timeout` when the destination takes no more of them; CancelledError.
 */
export async function openMultifdChannels(
  uri: SocketUri,
  count: number,
  connecting: Connecting,
): Promise<readonly SocketChannel[]> {
  const channels: SocketChannel[] = [];
  try {
    while (channels.length < count) channels.push(await connectChannel(uri, connecting));
    return channels;
  } catch (error) {
    await closeChannels(channels);
    if (!(error instanceof MachineError)) throw error;
    const hint = `turn its multifd capability on, with multifd-channels ${count}`;
    const message = `The destination took ${channels.length} of ${count} multifd channels`;
    throw new MachineError(error.code, message, { ...error.data, hint }, error);
  }
}

/**
 * A QEMU that has all of its channels takes no further ones: over TCP nothing says so, and the system goes on trying for
 * minutes.
 */
const CONNECT_MS = 15_000;

/** Closes all of them; never fails. */
export async function closeChannels(channels: readonly SocketChannel[]): Promise<void> {
  await Promise.allSettled(channels.map((channel) => channel.close()));
}

/** Connects as `openOutgoing` does for the main channel. */
async function connectChannel(uri: SocketUri, { signal, tls }: Connecting): Promise<SocketChannel> {
  const address = uri.kind === "unix" ? uri : { ...uri, host: uri.host || "localhost" };
  const name = formatMigrationUri(uri);
  const timeout = AbortSignal.timeout(CONNECT_MS);
  const either = AbortSignal.any([timeout, ...(signal === undefined ? [] : [signal])]);
  try {
    return await connectSocket(address, name, either, tls);
  } catch (error) {
    throwIfAborted(signal);
    if (!timeout.aborted) throw error;
    throw new MachineError("timeout", `Connecting failed: ${name} does not answer`, { path: name }, error);
  }
}
