/**
 * The harness's own few lines of QMP, apart from the product's client: a test must not be wrong in the same way as what
 * it tests.
 *
 * @module
 */

import { createConnection } from "node:net";
import type { Socket } from "node:net";
import { createInterface } from "node:readline";

import { MachineError } from "../../src/errors/index.js";

/** An answer or an event, as QEMU sent it. */
export type QmpMessage = Readonly<Record<string, unknown>>;

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** A connection that sends commands one after the other. */
export class HarnessQmp {
  /** All events so far. */
  readonly events: QmpMessage[] = [];
  readonly #socket: Socket;
  readonly #pending: Pending[] = [];
  readonly #eventWaiters: Pending[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    const fail = (error?: Error): void => {
      const lost = new MachineError("connection-closed", "The harness lost its QMP connection", {}, error);
      for (const { reject } of [...this.#pending.splice(0), ...this.#eventWaiters.splice(0)]) reject(lost);
    };
    socket.on("error", fail).on("close", () => fail());
    createInterface({ input: socket })
      .on("line", (line) => this.#take(JSON.parse(line) as QmpMessage))
      // It passes on the socket's errors, such as the reset by a QEMU that is killed.
      .on("error", fail);
  }

  /** Connects and leaves the negotiation mode. */
  static async connect(path: string): Promise<HarnessQmp> {
    const socket = await new Promise<Socket>((resolve, reject) => {
      const opening = createConnection(path, () => {
        opening.off("error", reject);
        resolve(opening);
      }).once("error", reject);
    });
    const qmp = new HarnessQmp(socket);
    await qmp.execute("qmp_capabilities");
    return qmp;
  }

  /** Runs a command and returns its `return`. */
  async execute(command: string, args: QmpMessage = {}): Promise<unknown> {
    if (this.#socket.destroyed)
      throw new MachineError("connection-closed", "The harness has no QMP connection");
    return new Promise((resolve, reject) => {
      this.#pending.push({ resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    });
  }

  /** Resolves when one more event has come; rejects when there can be none. */
  async nextEvent(): Promise<void> {
    if (this.#socket.destroyed)
      throw new MachineError("connection-closed", "The harness has no QMP connection");
    await new Promise((resolve, reject) => this.#eventWaiters.push({ resolve, reject }));
  }

  /** Closes the connection. */
  close(): void {
    this.#socket.destroy();
  }

  #take(message: QmpMessage): void {
    if ("event" in message) {
      this.events.push(message);
      for (const { resolve } of this.#eventWaiters.splice(0)) resolve(undefined);
    } else if ("return" in message) this.#pending.shift()?.resolve(message.return);
    else if ("error" in message) {
      this.#pending
        .shift()
        ?.reject(new MachineError("qmp", `QEMU answered ${JSON.stringify(message.error)}`));
    }
  }
}
