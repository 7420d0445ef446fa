import { setTimeout as sleep } from "node:timers/promises";

import { MachineError, throwIfAborted } from "../errors/index.js";
import type { QmpClient } from "../qmp/index.js";

/** Somebody else may have the monitor for a moment; a monitor whose QEMU has gone refuses at once. */
const TRIES = 30;
const PAUSE_MS = 1000;

/**
 * A QEMU's monitor that can be let go of for as long as there is nothing to say: it has room for one client, and a restore
 * that goes on for minutes is not to keep others out.
 */
export class Monitor {
  #client: QmpClient | undefined;
  readonly #reconnect: (() => Promise<QmpClient>) | undefined;
  #isOurs = false;

  /** @param reconnect Makes another connection; without it the first one is kept, and stays the caller's. */
  constructor(client: QmpClient, reconnect: (() => Promise<QmpClient>) | undefined) {
    this.#client = client;
    this.#reconnect = reconnect;
  }

  /** The connection, where there is one now. */
  get connected(): QmpClient | undefined {
    return this.#client;
  }

  /** Hangs up until the monitor is needed again; does nothing without a way to connect again. */
  async release(): Promise<void> {
    if (this.#reconnect === undefined) return;
    await this.#client?.close();
    this.#client = undefined;
  }

  /**
   * The connection.
   *
   * @throws MachineError when the monitor cannot be reached; CancelledError.
   */
  async client(signal?: AbortSignal): Promise<QmpClient> {
    for (let tries = 1; this.#client === undefined; tries++) {
      throwIfAborted(signal);
      try {
        this.#client = await this.#reconnect?.();
        this.#isOurs = true;
      } catch (error) {
        // A busy monitor accepts and does not greet; nobody listens for one that has gone.
        if (!(error instanceof MachineError) || error.code !== "timeout" || tries === TRIES) throw error;
        await sleep(PAUSE_MS);
      }
    }
    return this.#client;
  }

  /** Hangs up for good, where this opened the connection. */
  async close(): Promise<void> {
    if (this.#isOurs) await this.#client?.close();
  }
}
