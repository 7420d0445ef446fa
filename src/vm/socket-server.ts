import fs from "node:fs";
import net from "node:net";

import { getLogger } from "@logtape/logtape";

import { assertSocketPathFits, errnoCode, listeningError } from "../channels/index.js";
import type { SocketChardev } from "./chardev.js";

const logger = getLogger(["ramport", "vm"]);

/** More clients than these have to come again. */
const MAX_WAITING_CLIENTS = 16;

/**
 * A socket that serves one client at a time, as QEMU's do; the next ones wait for their turn.
 *
 * What `serve` returns settles when its client has gone; it must not reject.
 */
export class SocketServer {
  /** Resolves when the first client has come. */
  readonly firstClient: Promise<void>;
  readonly #server: net.Server;
  readonly #serve: (socket: net.Socket) => Promise<void>;
  readonly #waiting: net.Socket[] = [];
  #current: net.Socket | undefined;
  #announceFirst: () => void = () => undefined;

  private constructor(server: net.Server, serve: (socket: net.Socket) => Promise<void>) {
    this.#server = server;
    this.#serve = serve;
    this.firstClient = new Promise((resolve) => (this.#announceFirst = resolve));
    server.on("connection", (socket) => this.#take(socket));
    // No more descriptors, for one: those who are served go on.
    server.on("error", (error) => logger.warn("a client could not be accepted: {error}", { error }));
  }

  /**
   * Starts listening. A socket file that nobody listens at is a leftover and is replaced.
   *
   * @throws UsageError for a path that is too long; MachineError `io`.
   */
  static async listen(
    chardev: SocketChardev,
    serve: (socket: net.Socket) => Promise<void>,
  ): Promise<SocketServer> {
    const name = nameOf(chardev);
    if (chardev.kind === "unix") assertSocketPathFits(chardev.path);
    // Half open: a script may send its commands, close its side, and still want the answers.
    const server = net.createServer({ allowHalfOpen: true, noDelay: true });
    try {
      await listenAt(server, chardev).catch(async (error: unknown) => {
        if (chardev.kind !== "unix" || errnoCode(error) !== "EADDRINUSE") throw error;
        if (!(await isLeftover(chardev.path))) throw error;
        fs.rmSync(chardev.path, { force: true });
        await listenAt(server, chardev);
      });
    } catch (cause) {
      throw listeningError(name, chardev.kind === "unix" ? chardev.path : undefined, cause);
    }
    return new SocketServer(server, serve);
  }

  /** Where it listens, with the port that the system chose: `unix:PATH`, `tcp:HOST:PORT`. */
  get address(): string {
    const address = this.#server.address();
    if (address === null || typeof address === "string") return `unix:${address ?? ""}`;
    return `tcp:${address.family === "IPv6" ? `[${address.address}]` : address.address}:${address.port}`;
  }

  /** The client that is served. */
  get client(): net.Socket | undefined {
    return this.#current;
  }

  /** Stops listening and lets all clients go. */
  async close(): Promise<void> {
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    this.#current?.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #take(socket: net.Socket): void {
    socket.on("error", (error) => logger.debug("client lost: {error}", { error }));
    if (this.#current === undefined) void this.#serveAll(socket);
    else if (this.#waiting.length < MAX_WAITING_CLIENTS) this.#waiting.push(socket);
    else socket.destroy();
  }

  async #serveAll(first: net.Socket): Promise<void> {
    this.#announceFirst();
    for (let socket: net.Socket | undefined = first; socket !== undefined; socket = this.#waiting.shift()) {
      this.#current = socket;
      await this.#serve(socket);
      socket.destroy();
    }
    this.#current = undefined;
  }
}

function nameOf(chardev: SocketChardev): string {
  return chardev.kind === "unix" ? `unix:${chardev.path}` : `tcp:${chardev.host}:${chardev.port}`;
}

function listenAt(server: net.Server, chardev: SocketChardev): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    const where =
      chardev.kind === "unix"
        ? { path: chardev.path }
        : // Without a host, Node takes IPv4 where there is no IPv6.
          { port: chardev.port, ...(chardev.host === "" ? {} : { host: chardev.host }) };
    server.listen(where, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

/** Whether the file is a socket that refuses connections: its process is gone. */
async function isLeftover(path: string): Promise<boolean> {
  if (fs.lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  return new Promise((resolve) => {
    const socket = net.connect({ path });
    socket.once("error", (error) => resolve(errnoCode(error) === "ECONNREFUSED"));
    socket.once("connect", () => {
      socket.destroy();
      resolve(false);
    });
  });
}
