/**
 * The client of a QEMU monitor.
 *
 * @module
 */
import type { Duplex } from "node:stream";
import { MachineError, printable, UsageError } from "../errors/index.js";
import { formatQmpAddress, openSocket, type QmpAddress } from "./address.js";
import { answerSchemas, type QmpArgs, type QmpCommandName, type QmpReturn } from "./commands.js";
import type { EventsOptions } from "./event-queue.js";
import type { QmpEvent } from "./event-types.js";
import type { EventListener } from "./events.js";
import { checkShape, type Greeting, type QemuVersion } from "./messages.js";
import type { WaitLimits } from "./waiting.js";
import { QmpWire } from "./wire.js";

/** Limit for connecting when none is given, in milliseconds. */
export const DEFAULT_CONNECT_TIMEOUT_MS = 10_000;
/** Limit for an answer when none is given, in milliseconds: a QEMU that flushes its disks takes its time to stop. */
export const DEFAULT_COMMAND_TIMEOUT_MS = 60_000;

/** How to connect. `timeoutMs` covers everything up to the negotiated connection; default 10 seconds. */
export interface QmpConnectOptions extends WaitLimits {
  /** Enables out-of-band commands for the connection; `auto` where the monitor offers them. */
  readonly oob?: boolean | "auto" | undefined;
  /** Longest line accepted, in bytes; default 64 MiB. A longer one ends the connection. */
  readonly maxLineBytes?: number | undefined;
}

/** How to run a command. `timeoutMs` is 60 seconds by default; `Infinity` waits as long as the connection lasts. */
export interface ExecuteOptions extends WaitLimits {
  /** Runs the command at once, past those that wait; for the few that QEMU allows, on a connection with `oob`. */
  readonly oob?: boolean | undefined;
}

/** What follows the command's name in {@link QmpClient.execute}. */
export type ExecuteRest<C extends QmpCommandName> =
  QmpArgs<C> extends undefined
    ? [args?: undefined, options?: ExecuteOptions]
    : [args: QmpArgs<C>, options?: ExecuteOptions];

/**
 * A negotiated connection to a QEMU monitor (QMP).
 *
 * Commands may overlap; answers are matched by id. Numbers in answers are JavaScript numbers: integers beyond 2^53
 * lose their lowest bits.
 */
export class QmpClient implements AsyncDisposable {
  /** Version of the QEMU, from its greeting. */
  readonly version: QemuVersion;
  /** What the monitor offers for negotiation (`oob`). */
  readonly capabilities: readonly string[];
  /** Resolves when the connection has ended: with the reason, or with undefined after {@link close}. Never rejects. */
  readonly closed: Promise<MachineError | undefined>;
  readonly #wire: QmpWire;
  readonly #oob: boolean;

  private constructor(wire: QmpWire, greeting: Greeting, oob: boolean) {
    this.#wire = wire;
    this.version = greeting.version;
    this.capabilities = greeting.capabilities;
    this.closed = wire.closed;
    this.#oob = oob;
  }

  /** Whether commands can run out of band on this connection. */
  get isOob(): boolean {
    return this.#oob;
  }

  /**
   * Connects and negotiates.
   *
   * @param address - a Unix socket's path as it is (see parseQmpAddress for text with a prefix), or where to go
   * @throws MachineError `io` when there is no way in, `timeout` when the monitor does not greet (another client
   *   holds it, most often), `qmp` when the peer speaks something else, `connection-closed`, `not-capable` when `oob`
   *   was asked of a QEMU without it; CancelledError; UsageError for an impossible address or limit
   */
  static async connect(address: string | QmpAddress, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const target = typeof address === "string" ? { path: address } : address;
    const budget = remaining(options);
    const socket = await openSocket(target, budget());
    const path = "path" in target ? target.path : undefined;
    return QmpClient.#negotiate(
      new QmpWire(socket, formatQmpAddress(target), path, options.maxLineBytes),
      options,
      budget,
    );
  }

  /**
   * Negotiates over a connection that exists already: an inherited socket, a tunnel. The stream is owned from here
   * on, also when this fails.
   *
   * @throws as {@link connect} does
   */
  static async attach(stream: Duplex, options: QmpConnectOptions = {}): Promise<QmpClient> {
    return QmpClient.#negotiate(
      new QmpWire(stream, "The monitor", undefined, options.maxLineBytes),
      options,
      remaining(options),
    );
  }

  static async #negotiate(wire: QmpWire, options: QmpConnectOptions, budget: Budget): Promise<QmpClient> {
    try {
      const greeting = await wire.greeting(budget());
      const oob = options.oob === "auto" ? greeting.capabilities.includes("oob") : options.oob === true;
      if (oob && !greeting.capabilities.includes("oob")) {
        throw new MachineError("not-capable", "This QEMU's monitor has no out-of-band commands");
      }
      await wire.request("execute", "qmp_capabilities", oob ? { enable: ["oob"] } : undefined, budget());
      wire.ready();
      return new QmpClient(wire, greeting, oob);
    } catch (error) {
      await wire.close();
      throw error;
    }
  }

  /**
   * Runs a command and checks its answer. An abort or a time limit ends the waiting only: QEMU still runs the command,
   * and its late answer is dropped.
   *
   * `quit` may end the connection before its answer arrives: await {@link closed} as well.
   *
   * @throws QmpCommandError when QEMU refuses; MachineError `qmp` when the answer's shape is wrong, `timeout`,
   *   `connection-closed`, or `io`; CancelledError
   */
  async execute<C extends QmpCommandName>(command: C, ...rest: ExecuteRest<C>): Promise<QmpReturn<C>> {
    const [args, options] = rest;
    const value = await this.executeRaw(command, args, options);
    return checkShape<QmpReturn<C>>(answerSchemas[command], value, `The answer to ${command}`);
  }

  /**
   * Runs any command, without a check of its arguments or answer.
   *
   * @throws as {@link execute} does
   */
  async executeRaw(command: string, args?: object, options: ExecuteOptions = {}): Promise<unknown> {
    if (options.oob === true && !this.#oob) {
      throw new UsageError(`${printable(command)} cannot run out of band on this connection`, {
        hint: "connect with oob",
      });
    }
    return this.#wire.request(options.oob === true ? "exec-oob" : "execute", command, args, {
      timeoutMs: DEFAULT_COMMAND_TIMEOUT_MS,
      ...options,
    });
  }

  /**
   * Calls `listener` for each event of this name; returns what stops that. Listeners set right after `await connect`
   * miss nothing. What a listener throws becomes an uncaught exception.
   */
  on<N extends string>(name: N, listener: EventListener<N>): () => void {
    return this.#wire.events.on(name, listener);
  }

  /** Stops what {@link on} began; unknown listeners are ignored. */
  off<N extends string>(name: N, listener: EventListener<N>): void {
    this.#wire.events.off(name, listener);
  }

  /**
   * Waits for the next event of this name that the predicate takes. Call it before the command that causes the event.
   *
   * @throws MachineError `timeout` or `connection-closed`; CancelledError; what the predicate throws
   */
  async waitForEvent<N extends string>(
    name: N,
    predicate: (event: QmpEvent<N>) => boolean = () => true,
    limits: WaitLimits = {},
  ): Promise<QmpEvent<N>> {
    return this.#wire.events.wait(name, predicate, limits);
  }

  /**
   * Iterates over all events from this call on; ends when either side closes the connection. Leave it with `break` or
   * the signal, or its events pile up to `maxBuffered`.
   *
   * @throws (from the iteration) MachineError when the connection broke or the reader fell too far behind;
   *   CancelledError. UsageError at once for an impossible `maxBuffered`
   */
  events(options: EventsOptions = {}): AsyncIterableIterator<QmpEvent> {
    return this.#wire.events.iterate(options);
  }

  /** Closes the connection; commands and waits under way get `connection-closed`. Calling it again is harmless. */
  async close(): Promise<void> {
    await this.#wire.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

type Budget = () => WaitLimits;

function remaining(options: QmpConnectOptions): Budget {
  const { signal, timeoutMs = DEFAULT_CONNECT_TIMEOUT_MS } = options;
  const start = performance.now();
  return () => ({ signal, timeoutMs: Math.max(0, timeoutMs - (performance.now() - start)) });
}
