import { setTimeout as sleep } from "node:timers/promises";

import { errnoCode } from "../channels/index.js";
import { MachineError, throwIfAborted } from "../errors/index.js";
import type { QmpClient, QmpConnectOptions } from "../qmp/index.js";

/** Somebody else may have the monitor for a moment; a monitor whose QEMU has gone refuses at once. */
const LIMITS = { tryMs: 5000, pauseMs: 100, mostMs: 60_000 };

/** Makes another connection to a monitor, within what is given. */
export type Reconnect = (limits: Pick<QmpConnectOptions, "signal" | "timeoutMs">) => Promise<QmpClient>;

/** How to wait for a monitor that somebody else has. */
export interface MonitorWait {
  /** What it is needed for, as it stands behind "to". */
  readonly purpose: string;
  readonly signal?: AbortSignal | undefined;
  /** Default 60 s. */
  readonly mostMs?: number;
}

/**
 * A QEMU's monitor that can be let go of for as long as there is nothing to say: it has room for one client, and a restore
 * that goes on for minutes is not to keep others out.
 */
export class Monitor {
  #client: QmpClient | undefined;
  readonly #reconnect: Reconnect | undefined;
  readonly #onMessage: ((message: string) => void) | undefined;
  readonly #limits: typeof LIMITS;
  #isOurs = false;

  /** @param reconnect Makes another connection; without it the first one is kept, and stays the caller's. */
  constructor(
    client: QmpClient,
    reconnect: Reconnect | undefined,
    onMessage?: (message: string) => void,
    limits: Partial<typeof LIMITS> = {},
  ) {
    this.#reconnect = reconnect;
    this.#onMessage = onMessage;
    this.#limits = { ...LIMITS, ...limits };
    this.#adopt(client);
  }

  /** The connection, where there is one now. */
  get connected(): QmpClient | undefined {
    return this.#client;
  }

  /** Whether a connection that ended can be followed by another one. */
  get canReconnect(): boolean {
    return this.#reconnect !== undefined;
  }

  /** Hangs up until the monitor is needed again; does nothing without a way to connect again. */
  async release(): Promise<void> {
    if (this.#reconnect === undefined) return;
    await this.#client?.close();
    this.#client = undefined;
  }

  /**
   * The connection, made anew where it was let go of or has ended.
   *
   * @throws MachineError `timeout` when somebody else has the monitor for too long, `io` when nobody listens there;
   *   CancelledError.
   */
  async client({ purpose, signal, mostMs = this.#limits.mostMs }: MonitorWait): Promise<QmpClient> {
    const limit = performance.now() + mostMs;
    let isSaid = false;
    while (this.#client === undefined) {
      throwIfAborted(signal);
      const leftMs = Math.max(1, limit - performance.now());
      try {
        const next = await this.#reconnect?.({ signal, timeoutMs: Math.min(this.#limits.tryMs, leftMs) });
        if (next !== undefined) this.#adopt(next);
        this.#isOurs = true;
      } catch (error) {
        if (!isBusy(error)) throw error;
        if (performance.now() >= limit) throw stillBusy(purpose, mostMs, error);
        if (!isSaid) this.#onMessage?.(waitingFor(purpose, mostMs));
        isSaid = true;
        await sleep(this.#limits.pauseMs);
      }
    }
    return this.#client;
  }

  /** Hangs up for good, where this opened the connection. */
  async close(): Promise<void> {
    if (this.#isOurs) await this.#client?.close();
  }

  #adopt(client: QmpClient): void {
    this.#client = client;
    if (this.#reconnect === undefined) return;
    void client.closed.then(() => {
      if (this.#client === client) this.#client = undefined;
    });
  }
}

/**
 * A busy monitor has connections wait and does not greet, until there is room for no other in its short queue; nobody listens
 * for one that has gone.
 */
function isBusy(error: unknown): error is MachineError {
  if (!(error instanceof MachineError)) return false;
  return error.code === "timeout" || errnoCode(error.cause) === "EAGAIN";
}

function waitingFor(purpose: string, mostMs: number): string {
  return (
    `Waiting for the QEMU's monitor to ${purpose}, for ${Math.ceil(mostMs / 1000)} s at most: another client has it, ` +
    "or the QEMU does not answer"
  );
}

function stillBusy(purpose: string, mostMs: number, cause: Error): MachineError {
  const message = `The QEMU's monitor could not be had within ${Math.ceil(mostMs / 1000)} s to ${purpose}`;
  const hint = "another client probably has it: close that one, or give the QEMU a second -qmp";
  return new MachineError("timeout", message, { hint }, cause);
}
