/**
 * Passes on the connections of a migration, and cuts all of them off after so many bytes.
 *
 * @module
 */

import { once } from "node:events";
import net from "node:net";

interface Connection {
  readonly near: net.Socket;
  readonly far: net.Socket;
}

/** Listens at one Unix socket and connects to another one for each connection that it takes. */
export class CuttingRelay {
  /** How often it has cut connections that stood. */
  cuts = 0;
  /** Called at each cut. */
  onCut: (() => void) | undefined;
  readonly #server: net.Server;
  readonly #connections = new Set<Connection>();
  #target: string;
  #leftBytes = Infinity;

  private constructor(server: net.Server, target: string) {
    this.#server = server;
    this.#target = target;
    server.on("connection", (near) => this.#take(near));
  }

  /**
   * @param path Where it listens.
   * @param target What it connects to; another one can be named later.
   */
  static async listen(path: string, target: string): Promise<CuttingRelay> {
    const server = net.createServer({ allowHalfOpen: true });
    const relay = new CuttingRelay(server, target);
    await once(server.listen(path), "listening");
    return relay;
  }

  /** Connections from now on go there. */
  redirect(target: string): void {
    this.#target = target;
  }

  /** All connections are cut when so many more bytes have gone to the target. */
  cutAfter(bytes: number): void {
    this.#leftBytes = bytes;
  }

  /** Cuts all connections now. */
  cut(): void {
    this.#leftBytes = Infinity;
    if (this.#connections.size === 0) return;
    this.cuts++;
    for (const { near, far } of this.#connections) {
      near.destroy();
      far.destroy();
    }
    this.#connections.clear();
    this.onCut?.();
  }

  async close(): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
  }

  #take(near: net.Socket): void {
    const far = net.connect({ path: this.#target, allowHalfOpen: true });
    const connection = { near, far };
    this.#connections.add(connection);
    for (const socket of [near, far]) {
      // The other side may have closed meanwhile: each end sees that by itself.
      socket.on("error", () => undefined);
      socket.on("close", () => {
        near.destroySoon();
        far.destroySoon();
        this.#connections.delete(connection);
      });
    }
    near.on("data", (bytes: Buffer) => {
      const rest = this.#leftBytes;
      if (rest <= 0) return;
      this.#leftBytes -= bytes.length;
      // In the middle of a record, and even of a page, as it happens when a machine goes away.
      if (bytes.length >= rest) far.write(bytes.subarray(0, rest), () => this.cut());
      else if (!far.write(bytes)) near.pause();
    });
    far.on("drain", () => near.resume());
    near.on("end", () => far.end());
    far.pipe(near);
  }
}
