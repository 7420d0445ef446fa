/**
 * A relay that keeps the package of a postcopy stream back.
 *
 * @module
 */

import { once } from "node:events";
import net from "node:net";

/** QEMU_VM_COMMAND, MIG_CMD_PACKAGED, four bytes of arguments: how long the package is. */
const COMMAND = Buffer.from("0800070004", "hex");
const HEAD_BYTES = COMMAND.length + 4;

/**
 * Listens at one Unix socket and passes on to another one, up to the package; with preempt, the source writes nothing else until
 * the destination has answered. {@link arrived} resolves when the relay has all of it.
 */
export class PackageHolder {
  readonly arrived: Promise<void>;
  readonly #server: net.Server;
  readonly #target: string;
  readonly #sockets = new Set<net.Socket>();
  #held: { readonly bytes: Buffer; readonly far: net.Socket } | undefined;
  #isReleased = false;
  #arrive: () => void = () => undefined;

  private constructor(server: net.Server, target: string) {
    this.#server = server;
    this.#target = target;
    this.arrived = new Promise((resolve) => (this.#arrive = resolve));
    server.on("connection", (near) => this.#take(near));
  }

  /** @param target What it connects to. */
  static async listen(path: string, target: string): Promise<PackageHolder> {
    const server = net.createServer({ allowHalfOpen: true });
    const holder = new PackageHolder(server, target);
    await once(server.listen(path), "listening");
    return holder;
  }

  /** Passes on what was kept back, and all that follows. */
  release(): void {
    this.#isReleased = true;
    this.#held?.far.write(this.#held.bytes);
    this.#held = undefined;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }

  #take(near: net.Socket): void {
    const far = net.connect({ path: this.#target, allowHalfOpen: true });
    for (const socket of [near, far]) {
      this.#sockets.add(socket);
      // Either side may have closed meanwhile.
      socket.on("error", () => undefined);
    }
    let isHolding = false;
    near.on("data", (bytes: Buffer) => {
      isHolding ||= bytes.subarray(0, COMMAND.length).equals(COMMAND);
      if (isHolding && !this.#isReleased) this.#hold(bytes, far);
      else far.write(bytes);
    });
    // A source that hangs up has sent what it has sent.
    near.on("end", () => {
      this.release();
      far.end();
    });
    far.pipe(near);
  }

  #hold(bytes: Buffer, far: net.Socket): void {
    const held = Buffer.concat([this.#held?.bytes ?? Buffer.alloc(0), bytes]);
    this.#held = { bytes: held, far };
    if (held.length >= HEAD_BYTES && held.length >= HEAD_BYTES + held.readUInt32BE(COMMAND.length)) {
      this.#arrive();
    }
  }
}
