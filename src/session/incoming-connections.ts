import {
  acceptConnections,
  type ByteChannel,
  type ByteSource,
  formatMigrationUri,
  type MigrationUri,
  openIncoming,
  type TlsCredentials,
} from "../channels/index.js";
import { type MultifdConnections, sortConnections } from "../engine/index.js";
import { UsageError } from "../errors/index.js";

/** How a source is waited for. */
export interface IncomingConnectionsOptions {
  /** Multifd channels that the source makes beside its main one; none when not given. */
  readonly channels?: number;
  /** The source has to connect with TLS, each of its connections. */
  readonly tls?: TlsCredentials;
  readonly signal?: AbortSignal;
  readonly onListening?: (uri: string) => void;
  readonly onMessage?: (message: string) => void;
}

/** A source that has connected. */
export interface IncomingConnections {
  readonly source: ByteSource;
  readonly returnPath?: ByteChannel;
  readonly multifd?: Pick<MultifdConnections, "channels" | "uuid">;
  close(): Promise<void>;
}

/** A source makes all of its connections at once: after this time somebody should look at the settings. */
const PATIENCE_MS = 3000;

/**
 * Waits for one source at the URI, with all of its connections.
 *
 * @throws UsageError for channels over something that is no socket; what opening throws; FormatError when the connections
 *   are not those of one multifd migration.
 */
export async function openIncomingConnections(
  uri: MigrationUri,
  options: IncomingConnectionsOptions,
): Promise<IncomingConnections> {
  const { channels } = options;
  if (channels === undefined) {
    const { signal, onListening, tls } = options;
    const { source, returnPath } = await openIncoming(uri, {
      ...(signal === undefined ? {} : { signal }),
      ...(onListening === undefined ? {} : { onListening }),
      ...(tls === undefined ? {} : { tls }),
    });
    return { source, ...(returnPath === undefined ? {} : { returnPath }), close: () => source.close() };
  }
  if (uri.kind !== "unix" && uri.kind !== "tcp") {
    throw new UsageError(`Several channels need a socket, and ${formatMigrationUri(uri)} is none`, {
      hint: "use unix:PATH or tcp:HOST:PORT, or leave --channels out",
    });
  }
  const impatience = new Impatience(channels + 1, options.onMessage);
  try {
    const connections = await acceptConnections(uri, channels + 1, {
      ...options,
      onConnection: (made) => impatience.connected(made),
    });
    const close = async (): Promise<void> => {
      await Promise.all(connections.map((connection) => connection.close()));
    };
    const abort = (): void => void close();
    options.signal?.addEventListener("abort", abort, { once: true });
    try {
      const { main, returnPath, channels: multifdChannels, uuid } = await sortConnections(connections);
      return { source: main, returnPath, multifd: { channels: multifdChannels, uuid }, close };
    } catch (error) {
      await close();
      throw error;
    } finally {
      options.signal?.removeEventListener("abort", abort);
    }
  } finally {
    impatience.end();
  }
}

/** Tells a user who waits that a source has come and does not make as many connections as it is to make. */
class Impatience {
  readonly #expected: number;
  readonly #onMessage: ((message: string) => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(expected: number, onMessage: ((message: string) => void) | undefined) {
    this.#expected = expected;
    this.#onMessage = onMessage;
  }

  connected(made: number): void {
    this.end();
    this.#timer = setTimeout(() => {
      this.#onMessage?.(
        `The source has made ${made} of ${this.#expected} connections: its multifd capability must be on, with multifd-channels ${this.#expected - 1}`,
      );
    }, PATIENCE_MS);
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}
