import fs from "node:fs";
import net from "node:net";
import { setImmediate } from "node:timers/promises";
import { isatty } from "node:tty";

import { FormatError, MachineError, UsageError } from "../errors/index.js";
import type { ByteChannel, ByteSink, ByteSource } from "./byte-stream.js";
import { openFileForReading, SequentialFile } from "./file.js";
import { connectSocket, SocketChannel, SocketListener } from "./socket.js";
import { shareWithDirectoryOwner } from "./socket-path.js";
import { errnoCode, systemError } from "./system-error.js";
import { formatMigrationUri, type MigrationUri } from "./uri.js";

type SocketUri = Extract<MigrationUri, { readonly kind: "unix" | "tcp" }>;

/** A source that may be able to answer: sockets have a return path, files and pipes do not. */
export interface IncomingChannel {
  readonly source: ByteSource;
  /** The same connection's other direction. */
  readonly returnPath?: ByteChannel;
}

/** Where to write, and for sockets where the destination answers. */
export interface OutgoingChannel {
  readonly sink: ByteSink;
  /** The same connection's other direction. */
  readonly returnPath?: ByteChannel;
}

/**
 * Waits for one incoming migration at the URI.
 *
 * @param options.onListening Called when a socket listens, with the URI that a source can be pointed at.
 * @throws UsageError; MachineError `io`; CancelledError. Reading throws FormatError `unsupported` for a source with several
 *   connections.
 */
export async function openIncoming(
  uri: MigrationUri,
  options: { signal?: AbortSignal; onListening?: (uri: string) => void } = {},
): Promise<IncomingChannel> {
  switch (uri.kind) {
    case "stdio":
      return incoming(openDescriptor(0, "standard input", "read"));
    case "fd":
      return incoming(openDescriptor(uri.fd, `fd:${uri.fd}`, "read"));
    case "file":
      return { source: openFileForReading(uri.path, uri.offset) };
    case "unix":
    case "tcp": {
      const name = formatMigrationUri(uri);
      if (uri.kind === "unix") await removeStaleSocket(uri.path);
      const listener = await SocketListener.listen(uri, name);
      try {
        if (uri.kind === "unix") shareWithDirectoryOwner(uri.path);
        options.onListening?.(formatMigrationUri(connectable(uri, listener.port)));
        const channel = await listener.accept(options.signal);
        return { source: new OnlyConnection(channel, listener), returnPath: channel };
      } catch (error) {
        await listener.close();
        throw error;
      }
    }
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

  async #checkOnly(listener: SocketListener): Promise<void> {
    // The first bytes may be here in the same turn as a connection that was made before they were sent.
    await setImmediate();
    const more = listener.hasWaiting;
    await this.#stopListening();
    if (!more) return;
    throw new FormatError("unsupported", "The source migrates over several connections", {
      hint: "turn the multifd capability off at the source",
    });
  }

  async #stopListening(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    await listener?.close();
  }
}

/**
 * Opens the way to a QEMU that waits at the URI, or to a file or standard output.
 *
 * @throws MachineError `io`; CancelledError.
 */
export async function openOutgoing(
  uri: MigrationUri,
  options: { signal?: AbortSignal } = {},
): Promise<OutgoingChannel> {
  switch (uri.kind) {
    case "stdio":
      // Whatever it is, nobody answers there.
      return { sink: openDescriptor(1, "standard output", "write").channel };
    case "fd": {
      const { channel, bothWays } = openDescriptor(uri.fd, `fd:${uri.fd}`, "write");
      return bothWays ? { sink: channel, returnPath: channel } : { sink: channel };
    }
    case "file":
      throw new UsageError("A migration is sent to a waiting QEMU, not into a file", {
        hint: "use unix:PATH, tcp:HOST:PORT, fd:N or - for standard output",
      });
    case "unix":
    case "tcp": {
      const channel = await connectSocket(
        uri.kind === "unix" ? uri : { ...uri, host: uri.host || "localhost" },
        formatMigrationUri(uri),
        options.signal,
      );
      return { sink: channel, returnPath: channel };
    }
  }
}

function incoming({ channel, bothWays }: Descriptor): IncomingChannel {
  return bothWays ? { source: channel, returnPath: channel } : { source: channel };
}

interface Descriptor {
  readonly channel: ByteChannel;
  readonly bothWays: boolean;
}

function openDescriptor(fd: number, name: string, use: "read" | "write"): Descriptor {
  let stats: fs.Stats;
  try {
    stats = fs.fstatSync(fd);
  } catch (cause) {
    throw systemError("Opening", name, cause);
  }
  if (stats.isDirectory()) throw new MachineError("io", `${name} is a directory`, { path: name });
  if (isatty(fd)) {
    throw new UsageError(`A migration stream is no text for a terminal, and ${name} is one`, {
      hint: use === "read" ? "pipe a stream into it" : "pipe it on, or redirect it into a file",
    });
  }
  if (stats.isSocket()) {
    const channel = new SocketChannel(new net.Socket({ fd, allowHalfOpen: true }), name);
    return { channel, bothWays: true };
  }
  if (stats.isFIFO()) {
    // Not through fs.read and fs.write: one of those that waits for the other side cannot be cancelled, and the process
    // does not end before it has.
    const pipe = new net.Socket({ fd, readable: use === "read", writable: use === "write" });
    return { channel: new SocketChannel(pipe, name), bothWays: false };
  }
  return { channel: new SequentialFile(name, fd, undefined), bothWays: false };
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
