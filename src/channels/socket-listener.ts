import net from "node:net";

import { throwIfAborted } from "../errors/index.js";
import { SocketChannel } from "./socket.js";
import { assertSocketPathFits, listeningError } from "./socket-path.js";
import { systemError } from "./system-error.js";
import type { SecureSocket } from "./tls.js";
import type { TlsCredentials } from "./tls-credentials.js";

/** A connection that came in; under TLS its channel is there after the handshake. */
interface Arrival {
  readonly channel: Promise<SocketChannel>;
  drop(): void;
}

/** A listening socket that takes one connection after the other. */
export class SocketListener {
  readonly #server: net.Server;
  readonly #name: string;
  readonly #secure: SecureSocket | undefined;
  readonly #waiting: Arrival[] = [];
  #failure: Error | undefined;
  #wakeAcceptor: (() => void) | undefined;

  private constructor(server: net.Server, name: string, secure: SecureSocket | undefined) {
    this.#server = server;
    this.#name = name;
    this.#secure = secure;
    server.on("connection", (socket) => {
      this.#waiting.push(this.#arrive(socket));
      this.#wakeAcceptor?.();
    });
    // No more descriptors, for one; it may come again and again.
    server.on("error", (error) => {
      this.#failure ??= error;
      this.#wakeAcceptor?.();
    });
  }

  /**
   * Starts listening at a path, or at host and port; an empty host is every address of this machine.
   *
   * @param tls With it, every connection is one with TLS, and this side the server.
   * @throws UsageError for a path that is too long, or credentials that are no good; MachineError `io`.
   */
  static async listen(
    address: { readonly path: string } | { readonly host: string; readonly port: number },
    name: string,
    tls?: TlsCredentials,
  ): Promise<SocketListener> {
    if ("path" in address) assertSocketPathFits(address.path);
    const secure = tls === undefined ? undefined : (await import("./tls.js")).prepareServer(tls, name);
    // Half open: a source may close its side and still wait for the return path's last message.
    const server = net.createServer({ allowHalfOpen: true, noDelay: true });
    return new Promise((resolve, reject) => {
      const socketPath = "path" in address ? address.path : undefined;
      const failed = (cause: Error): void => reject(listeningError(name, socketPath, cause));
      server.once("error", failed);
      server.listen(
        // Without a host, Node takes IPv4 where there is no IPv6.
        "path" in address ? { path: address.path } : address.host === "" ? { port: address.port } : address,
        () => {
          server.off("error", failed);
          resolve(new SocketListener(server, name, secure));
        },
      );
    });
  }

  /** The TCP port in use; undefined on a path. */
  get port(): number | undefined {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : undefined;
  }

  /** Whether there are connections that nobody accepted yet. */
  get hasWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /**
   * The next connection.
   *
   * @throws MachineError `io` when none can be taken, `tls` or another one when its TLS handshake fails; CancelledError when
   *   the signal fires first.
   */
  async accept(signal?: AbortSignal): Promise<SocketChannel> {
    throwIfAborted(signal);
    if (this.#waiting.length === 0 && this.#failure === undefined) {
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal?.removeEventListener("abort", wake);
          this.#wakeAcceptor = undefined;
          resolve();
        };
        this.#wakeAcceptor = wake;
        signal?.addEventListener("abort", wake);
      });
    }
    const arrival = this.#waiting.shift();
    if (arrival !== undefined) return this.#await(arrival, signal);
    throwIfAborted(signal);
    throw systemError("Listening", this.#name, this.#failure ?? new Error("nobody came"));
  }

  /** Stops listening; connections that nobody accepted are closed. */
  close(): Promise<void> {
    this.#server.close();
    for (const arrival of this.#waiting.splice(0)) arrival.drop();
    return Promise.resolve();
  }

  /** Takes a connection, and begins its handshake: a source that opens several does not wait for one after the other. */
  #arrive(socket: net.Socket): Arrival {
    if (this.#secure === undefined) {
      const channel = new SocketChannel(socket, this.#name);
      return { channel: Promise.resolve(channel), drop: () => void channel.close() };
    }
    const dropped = new AbortController();
    const channel = this.#secure(socket, dropped.signal).then((tls) => new SocketChannel(tls, this.#name));
    // Whoever accepts it hears how it went.
    channel.catch(() => undefined);
    return {
      channel,
      drop: () => {
        dropped.abort();
        channel.then((opened) => opened.close()).catch(() => undefined);
      },
    };
  }

  async #await(arrival: Arrival, signal: AbortSignal | undefined): Promise<SocketChannel> {
    const drop = (): void => arrival.drop();
    signal?.addEventListener("abort", drop, { once: true });
    try {
      const channel = await arrival.channel;
      throwIfAborted(signal);
      return channel;
    } finally {
      signal?.removeEventListener("abort", drop);
    }
  }
}
