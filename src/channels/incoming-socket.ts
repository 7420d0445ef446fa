import fs from "node:fs";
import { setImmediate } from "node:timers/promises";

import { FormatError, throwIfAborted } from "../errors/index.js";
import type { ByteChannel, ByteSource } from "./byte-stream.js";
import { connectSocket } from "./connect-socket.js";
import type { DetachedConnection } from "./detach.js";
import type { SocketChannel } from "./socket.js";
import { SocketListener } from "./socket-listener.js";
import { shareWithDirectoryOwner } from "./socket-path.js";
import { errnoCode, systemError } from "./system-error.js";
import type { TlsCredentials } from "./tls-credentials.js";
import { formatMigrationUri, type MigrationUri } from "./uri.js";

type SocketUri = Extract<MigrationUri, { readonly kind: "unix" | "tcp" }>;

/**
 * Listens at the address until one source connects.
 *
 * @param options.onListening Called when the socket listens, with the URI that a source can be pointed at.
 * @throws UsageError; MachineError `io`; CancelledError. Reading throws FormatError `unsupported` for a source with several
 *   connections.
 */
export async function acceptSource(
  uri: SocketUri,
  options: {
    readonly signal?: AbortSignal;
    readonly onListening?: (uri: string) => void;
    readonly tls?: TlsCredentials;
  },
): Promise<{ readonly source: ByteSource; readonly returnPath: ByteChannel }> {
  const listener = await listenAt(uri, options.tls);
  try {
    options.onListening?.(formatMigrationUri(connectable(uri, listener.port)));
    const channel = await listener.accept(options.signal);
    return { source: new OnlyConnection(channel, listener), returnPath: channel };
  } catch (error) {
    await listener.close();
    throw error;
  }
}

/**
 * Listens at the address until a source connects, and for the connections that it makes later.
 *
 * @param options.onListening Called when the socket listens, with the URI that a source can be pointed at.
 * @throws UsageError; MachineError `io`; CancelledError.
 */
export async function acceptFirst(
  uri: SocketUri,
  options: {
    readonly signal?: AbortSignal;
    readonly onListening?: (uri: string) => void;
    readonly tls?: TlsCredentials;
  },
): Promise<{ readonly source: ByteSource; readonly returnPath: ByteChannel; readonly more: SocketListener }> {
  const listener = await listenAt(uri, options.tls);
  try {
    options.onListening?.(formatMigrationUri(connectable(uri, listener.port)));
    const channel = await listener.accept(options.signal);
    return { source: channel, returnPath: channel, more: listener };
  } catch (error) {
    await listener.close();
    throw error;
  }
}

/**
 * Listens at the address until a source has made all of its connections, in whatever order.
 *
 * @param count How many connections the source makes.
 * @param options.onConnection Called with how many have been made.
 * @throws UsageError; MachineError `io`; FormatError `inconsistent` when it makes more; CancelledError.
 */
export async function acceptConnections(
  uri: SocketUri,
  count: number,
  options: {
    readonly signal?: AbortSignal;
    readonly onListening?: (uri: string) => void;
    readonly onConnection?: (made: number) => void;
    readonly tls?: TlsCredentials;
  },
): Promise<SocketChannel[]> {
  const listener = await listenAt(uri, options.tls);
  const channels: SocketChannel[] = [];
  try {
    options.onListening?.(formatMigrationUri(connectable(uri, listener.port)));
    while (channels.length < count) {
      channels.push(await listener.accept(options.signal));
      options.onConnection?.(channels.length);
    }
    // One that is made right behind the last is seen in the same turn.
    await setImmediate();
    throwIfAborted(options.signal);
    if (listener.hasWaiting) {
      throw new FormatError("inconsistent", "The source makes more connections than it was to make", {
        expected: count,
        hint: "its multifd-channels and --channels must be the same number",
      });
    }
    return channels;
  } catch (error) {
    await Promise.all(channels.map((channel) => channel.close()));
    throw error;
  } finally {
    await listener.close();
  }
}

async function listenAt(uri: SocketUri, tls: TlsCredentials | undefined): Promise<SocketListener> {
  if (uri.kind === "unix") await removeStaleSocket(uri.path);
  const listener = await SocketListener.listen(uri, formatMigrationUri(uri), tls);
  try {
    if (uri.kind === "unix") shareWithDirectoryOwner(uri.path);
    return listener;
  } catch (error) {
    await listener.close();
    throw error;
  }
}

/** What names every address of this machine, and a name for one of them: QEMU cannot resolve an empty host. */
const ANY_HOST = new Map([
  ["", "localhost"],
  ["::", "localhost"],
  ["0.0.0.0", "127.0.0.1"],
]);

/** Where a listener that was opened at the URI can be reached. */
function connectable(uri: SocketUri, port: number | undefined): SocketUri {
  if (uri.kind === "unix") return uri;
  return { ...uri, host: ANY_HOST.get(uri.host) ?? uri.host, port: port ?? uri.port };
}

/**
 * An accepted connection that must be the source's only one. A source that spreads its data over several makes all of
 * them before it sends on the first, so the listener stays until then: refused, they would only break the first off.
 */
class OnlyConnection implements ByteSource {
  readonly #channel: SocketChannel;
  #listener: SocketListener | undefined;

  constructor(channel: SocketChannel, listener: SocketListener) {
    this.#channel = channel;
    this.#listener = listener;
  }

  async read(target: Uint8Array): Promise<number> {
    const count = await this.#channel.read(target);
    if (this.#listener !== undefined) await this.#checkOnly(this.#listener);
    return count;
  }

  async close(): Promise<void> {
    await this.#channel.close();
    await this.#stopListening();
  }

  get canDetach(): boolean {
    return this.#channel.canDetach;
  }

  /** Gives the connection away: `detachConnection` says how. */
  async detach(): Promise<DetachedConnection | undefined> {
    const detached = await this.#channel.detach();
    if (detached !== undefined) await this.#stopListening();
    return detached;
  }

  async #checkOnly(listener: SocketListener): Promise<void> {
    // The first bytes may be here in the same turn as a connection that was made before they were sent.
    await setImmediate();
    const more = listener.hasWaiting;
    await this.#stopListening();
    if (!more) return;
    throw new FormatError("unsupported", "The source migrates over several connections", {
      hint: "receive it with --channels, or turn the multifd capability off at the source",
    });
  }

  async #stopListening(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    await listener?.close();
  }
}

/**
 * A socket file that nobody listens at is a leftover; anything else at the path is not ours to remove. Listening there
 * then fails with EADDRINUSE.
 */
async function removeStaleSocket(path: string): Promise<void> {
  try {
    const stats = fs.lstatSync(path, { throwIfNoEntry: false });
    if (stats?.isSocket() !== true || isListening(path)) return;
  } catch (cause) {
    throw systemError("Listening", `unix:${path}`, cause);
  }
  try {
    await (await connectSocket({ path }, path)).close();
  } catch (error) {
    if (!(error instanceof Error) || errnoCode(error.cause) !== "ECONNREFUSED") return;
    try {
      fs.rmSync(path, { force: true });
    } catch (cause) {
      throw systemError("Removing", path, cause);
    }
  }
}

/** Whether the kernel's table says so: asking by a connection would look like a migration to a waiting receiver. */
function isListening(path: string): boolean {
  try {
    const table = fs.readFileSync("/proc/net/unix", "utf8");
    // Num RefCount Protocol Flags Type St Inode Path; this flag is __SO_ACCEPTCON.
    return table.split("\n").some((line) => line.endsWith(` ${path}`) && line.includes(" 00010000 "));
  } catch {
    return false;
  }
}
