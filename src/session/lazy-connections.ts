import { setTimeout as sleep } from "node:timers/promises";

import {
  connectSocket,
  formatMigrationUri,
  type SocketChannel,
  type TlsCredentials,
} from "../channels/index.js";
import type { PostcopyChannels } from "../engine/index.js";
import { asError } from "../errors/as-error.js";
import { MachineError, throwIfAborted } from "../errors/index.js";
import { type QmpClient, QmpCommandError } from "../qmp/index.js";
import type { Monitor } from "./lazy-monitor.js";
import { makePrivateSocketPath } from "./private-socket.js";
import { withHostname } from "./qemu-tls.js";
import { incomingArguments } from "./restore-method.js";
import type { SocketUri } from "./via.js";

/** Where a QEMU and this process meet. */
export interface LazyMeeting {
  readonly monitor: Monitor;
  /** Where QEMU listens; a fresh private socket each time when not given. */
  readonly via: SocketUri | undefined;
  readonly tls: TlsCredentials | undefined;
  readonly qmpPath: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onMessage: ((message: string) => void) | undefined;
}

/** Attempts at taking a broken connection up again, without one that lasts in between. */
const MOST_ATTEMPTS = 20;
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 5000;
/** A connection that lasted for so long was no failed attempt. */
const LASTING_MS = 5000;
/** A QEMU that has not noticed by then that its connection broke is told. */
const ATTEMPTS_BEFORE_PAUSE = 5;
/** Its main thread may itself wait for a page, and then answers nothing that is not out of band. */
const ANSWER_MS = 2000;

/** The connections of one lazy restore, one after the other. */
export class LazyConnections {
  readonly #meeting: LazyMeeting;
  #address: SocketUri | undefined;
  #removeSocket: (() => void) | undefined;
  #attempts = 0;
  #connectedAtMs = 0;

  constructor(meeting: LazyMeeting) {
    this.#meeting = meeting;
  }

  /**
   * Has a QEMU that was started with `-incoming defer` listen, and connects.
   *
   * @throws MachineError; CancelledError.
   */
  async listen(): Promise<PostcopyChannels> {
    const qmp = await this.#meeting.monitor.client({ purpose: "have it listen" });
    const uri = this.#nextAddress();
    await qmp.execute("migrate-incoming", incomingArguments(qmp, uri));
    return this.#connect();
  }

  /**
   * Has a QEMU whose connection broke listen again, and connects: as often as it takes, with pauses that grow.
   *
   * @returns `completed` when it had everything.
   * @throws MachineError when the QEMU has gone, has failed, or does not take another connection; CancelledError.
   */
  async recover(): Promise<PostcopyChannels | "completed"> {
    if (performance.now() - this.#connectedAtMs > LASTING_MS) this.#attempts = 0;
    const { monitor, signal } = this.#meeting;
    for (let problem: Error | undefined; ; this.#attempts++) {
      throwIfAborted(signal);
      if (this.#attempts >= MOST_ATTEMPTS) throw givenUp(problem);
      if (this.#attempts > 0) await sleep(pauseMs(this.#attempts));
      const qmp = await monitor.client({ purpose: "take the broken connection up again", signal });
      try {
        const oob = { oob: qmp.isOob, timeoutMs: ANSWER_MS };
        await qmp.execute("migrate-recover", { uri: this.#nextAddress() }, oob);
        const channels = await this.#connect();
        this.#attempts += 1;
        return channels;
      } catch (error) {
        if (await this.#isOver(qmp, error)) return "completed";
        problem = asError(error);
        if (this.#attempts === ATTEMPTS_BEFORE_PAUSE) await pause(qmp);
      }
    }
  }

  /** Opens one more connection to where the last one went. */
  readonly open = async (): Promise<SocketChannel> => {
    const { via, signal } = this.#meeting;
    const tls = this.#meeting.tls === undefined ? undefined : withHostname(this.#meeting.tls, via);
    const address = this.#address ?? { kind: "unix", path: "" };
    const target = address.kind === "unix" ? address : { ...address, host: address.host || "localhost" };
    return connectSocket(target, formatMigrationUri(address), signal, tls);
  };

  /** Removes what was made for sockets. */
  close(): void {
    this.#removeSocket?.();
    this.#removeSocket = undefined;
  }

  #nextAddress(): string {
    this.close();
    const { via, qmpPath } = this.#meeting;
    if (via === undefined) {
      const { path, remove } = makePrivateSocketPath(qmpPath);
      this.#address = { kind: "unix", path };
      this.#removeSocket = remove;
    } else this.#address = via;
    return formatMigrationUri(this.#address);
  }

  async #connect(): Promise<PostcopyChannels> {
    const channel = await this.open();
    this.#connectedAtMs = performance.now();
    return { main: channel, returnPath: channel };
  }

  /** Whether the QEMU needs nothing any more. Throws what no other attempt changes. */
  async #isOver(qmp: QmpClient, error: unknown): Promise<boolean> {
    const isRefusal = error instanceof QmpCommandError;
    if (!isRefusal && error instanceof MachineError && error.code === "connection-closed") {
      // The migration's own socket or the monitor's: the monitor's tells, where it cannot be asked again.
      if (await isGone(qmp)) {
        if (!this.#meeting.monitor.canReconnect) throw qemuGone(error);
        return false;
      }
    }
    if (!(error instanceof MachineError)) throw error;
    const status = await statusOf(qmp, this.#meeting.monitor.canReconnect);
    if (status === "failed" || status === "none") {
      throw new MachineError("migration-failed", "QEMU has given the restore up", {}, error);
    }
    return status === "completed";
  }
}

/** The state of the migration; undefined when the QEMU does not answer now. */
async function statusOf(qmp: QmpClient, canReconnect: boolean): Promise<string | undefined> {
  try {
    return (await qmp.execute("query-migrate", undefined, { timeoutMs: ANSWER_MS })).status ?? "none";
  } catch (error) {
    const isClosed = error instanceof MachineError && error.code === "connection-closed";
    if (isClosed && !canReconnect) throw qemuGone(error);
    return undefined;
  }
}

async function isGone(qmp: QmpClient): Promise<boolean> {
  const pending = Symbol("pending");
  return (await Promise.race([qmp.closed, sleep(100, pending)])) !== pending;
}

/** Breaks what is left of a connection, so that it can be recovered; QEMU refuses where there is none. */
async function pause(qmp: QmpClient): Promise<void> {
  const options = { oob: qmp.isOob, timeoutMs: ANSWER_MS };
  await qmp.execute("migrate-pause", undefined, options).catch(() => undefined);
}

function pauseMs(attempts: number): number {
  return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempts - 1));
}

function qemuGone(cause: unknown): MachineError {
  return new MachineError("connection-closed", "QEMU has ended, or hung up its monitor", {}, cause);
}

function givenUp(cause: Error | undefined): MachineError {
  const message = `QEMU did not take the connection up again: ${cause?.message ?? "no reason given"}`;
  const hint = "its guest waits for its pages; run the same command again to serve them";
  return new MachineError("connection-closed", message, { hint }, cause);
}
