import { throwIfAborted, UsageError } from "../errors/index.js";
import type { ByteChannel, ByteSink, ByteSource, IncomingFile, OutgoingFile } from "./byte-stream.js";
import { CommandSink, CommandSource } from "./command.js";
import { type DescriptorSets, openDescriptor, openSecureDescriptor, TLS_NEEDS_SOCKET } from "./descriptor.js";
import { acceptFirst, acceptSource } from "./incoming-socket.js";
import type { DirectIo } from "./direct-io.js";
import { openFileForReading, openFileForWriting } from "./open-file.js";
import { connectSocket } from "./connect-socket.js";
import type { TlsCredentials } from "./tls-credentials.js";
import { formatMigrationUri, type MigrationUri } from "./uri.js";

/** Where a migration comes from. What is there besides the source says what the source can do. */
export interface IncomingChannel {
  readonly source: ByteSource;
  /** Sockets: the same connection's other direction. */
  readonly returnPath?: ByteChannel;
  /** Regular files: the same file at any place, which a mapped-ram migration needs. Closing one closes the other. */
  readonly file?: IncomingFile;
  /** Sockets, where several connections are expected: those that the source makes behind the first one. */
  readonly more?: ConnectionsToCome;
}

/** Connections that a source may still make to where it was waited for. */
export interface ConnectionsToCome {
  /** @throws MachineError; CancelledError. */
  accept(signal?: AbortSignal): Promise<ByteChannel>;
  /** Stops listening. */
  close(): Promise<void>;
}

/** Where a migration goes. What is there besides the sink says what it can do. */
export interface OutgoingChannel {
  /**
   * Over a file, `end` returns when everything is on the device; over a command, when that has ended well. Closed without
   * `end`, a file that was opened by name holds nothing of what was written, and a command is killed.
   */
  readonly sink: ByteSink;
  /** Sockets: the same connection's other direction, where the destination answers. */
  readonly returnPath?: ByteChannel;
  /** Regular files: the same file at any place, which a mapped-ram migration needs. Closing one closes the other. */
  readonly file?: OutgoingFile;
}

/** What both ways of opening take. */
export interface OpenChannelOptions {
  readonly signal?: AbortSignal;
  /** Whether large reads and writes at places of a file go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  /** What `file:/dev/fdset/N` stands for: descriptors by the number of their set. They stay the caller's. */
  readonly descriptorSets?: DescriptorSets;
  /** Over a socket: TLS, with the side that waits for the migration as the server. Everything else refuses it. */
  readonly tls?: TlsCredentials;
}

/**
 * Waits for one incoming migration at the URI.
 *
 * @param options.onListening Called when a socket listens, with the URI that a source can be pointed at.
 * @throws UsageError; MachineError `io`; CancelledError. Reading throws FormatError `unsupported` for a source with several
 *   connections, and MachineError `io` at the end of a command that failed.
 */
export async function openIncoming(
  uri: MigrationUri,
  options: OpenChannelOptions & {
    readonly onListening?: (uri: string) => void;
    /** Whether a source may make more connections than one; default false: one that does is refused. */
    readonly several?: boolean;
  } = {},
): Promise<IncomingChannel> {
  throwIfAborted(options.signal);
  checkTls(uri, options.tls);
  switch (uri.kind) {
    case "stdio": {
      const { channel, bothWays } = openDescriptor(0, "standard input", "read");
      return bothWays ? { source: channel, returnPath: channel } : { source: channel };
    }
    case "fd": {
      if (options.tls !== undefined) {
        const { prepareServer } = await import("./tls.js");
        const name = `fd:${uri.fd}`;
        const secure = prepareServer(options.tls, name);
        const channel = await openSecureDescriptor(uri.fd, name, secure, options.signal);
        return { source: channel, returnPath: channel };
      }
      const { channel, bothWays, file } = openDescriptor(uri.fd, `fd:${uri.fd}`, "read", options.directIo);
      if (bothWays) return { source: channel, returnPath: channel };
      return file === undefined ? { source: channel } : { source: channel, file };
    }
    case "file":
      return openFileForReading(uri.path, uri.offset, options);
    case "exec":
      return { source: await CommandSource.start(uri.args) };
    case "unix":
    case "tcp":
      return options.several === true ? acceptFirst(uri, options) : acceptSource(uri, options);
  }
}

/**
 * Opens the way to where a migration goes: a QEMU that waits at the URI, a file, a command, a descriptor.
 *
 * @throws UsageError for what a migration cannot go to; MachineError `io`; CancelledError.
 */
export async function openOutgoing(
  uri: MigrationUri,
  options: OpenChannelOptions = {},
): Promise<OutgoingChannel> {
  throwIfAborted(options.signal);
  checkTls(uri, options.tls);
  switch (uri.kind) {
    case "stdio":
      // Whatever it is, nobody answers there.
      return { sink: openDescriptor(1, "standard output", "write").channel };
    case "fd": {
      if (options.tls !== undefined) {
        const { prepareClient } = await import("./tls.js");
        const name = `fd:${uri.fd}`;
        const secure = prepareClient(options.tls, name, undefined);
        const channel = await openSecureDescriptor(uri.fd, name, secure, options.signal);
        return { sink: channel, returnPath: channel };
      }
      const { channel, bothWays, file } = openDescriptor(uri.fd, `fd:${uri.fd}`, "write", options.directIo);
      if (bothWays) return { sink: channel, returnPath: channel };
      return file === undefined ? { sink: channel } : { sink: channel, file };
    }
    case "file": {
      const { file, seekable } = openFileForWriting(uri.path, uri.offset, options);
      return seekable ? { sink: file, file } : { sink: file };
    }
    case "exec":
      return { sink: await CommandSink.start(uri.args) };
    case "unix":
    case "tcp": {
      const channel = await connectSocket(
        uri.kind === "unix" ? uri : { ...uri, host: uri.host || "localhost" },
        formatMigrationUri(uri),
        options.signal,
        options.tls,
      );
      return { sink: channel, returnPath: channel };
    }
  }
}

function checkTls({ kind }: MigrationUri, tls: TlsCredentials | undefined): void {
  if (tls === undefined || kind === "unix" || kind === "tcp" || kind === "fd") return;
  throw new UsageError(`There is no TLS with ${kind === "stdio" ? "-" : `${kind}:`}: ${TLS_NEEDS_SOCKET}`, {
    hint: "use unix:PATH, tcp:HOST:PORT or fd:N, or leave the TLS options out",
  });
}
