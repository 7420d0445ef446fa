import {
  connectSocket,
  formatMigrationUri,
  type OpenChannelOptions,
  type SocketChannel,
} from "../channels/index.js";
import { sendMultifdHello } from "../engine/index.js";
import { MachineError, throwIfAborted } from "../errors/index.js";
import type { SocketUri } from "./via.js";

/** The extra connections of a multifd migration. */
export interface WantedChannels {
  readonly count: number;
  /** 16 bytes: the destination's own, zeros where it has none. It refuses others. */
  readonly uuid: Uint8Array;
}

/** How each connection is made. */
type Connecting = Pick<OpenChannelOptions, "signal" | "tls">;

/**
 * Opens the extra connections of a multifd migration, one after the other, and says of each which one it is. QEMU before 8.0
 * takes the first connection that comes for the main channel, so that one has to stand already.
 *
 * @throws MachineError `io`, `connection-closed` or `timeout` when the destination takes no more of them; CancelledError.
 */
export async function openMultifdChannels(
  uri: SocketUri,
  { count, uuid }: WantedChannels,
  connecting: Connecting,
): Promise<readonly SocketChannel[]> {
  const channels: SocketChannel[] = [];
  try {
    for (let id = 0; id < count; id++) {
      const channel = await connectChannel(uri, connecting);
      channels.push(channel);
      await sendMultifdHello(channel, { uuid, id });
    }
    return channels;
  } catch (error) {
    await closeChannels(channels);
    if (!(error instanceof MachineError)) throw error;
    const hint = `its own error says why; its multifd capability must be on, its multifd-channels ${count}, its UUID that of this side`;
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
