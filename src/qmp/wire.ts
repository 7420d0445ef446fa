/**
 * One connection to a monitor: requests with ids, their answers, and what arrives unasked.
 *
 * @module
 */
import type { Duplex } from "node:stream";
import { getLogger } from "@logtape/logtape";
import { MachineError, printable, UsageError } from "../errors/index.js";
import { BUSY_HINT } from "./address.js";
import { QmpCommandError } from "./errors.js";
import { eventDataSchemas, type QmpEvent } from "./event-types.js";
import { EventHub } from "./events.js";
import { LineSplitter } from "./lines.js";
import { checkShape, notQmp, parseGreeting, parseMessage, type Greeting, type Message } from "./messages.js";
import { waitWithin, type Settle, type WaitLimits } from "./waiting.js";

const logger = getLogger(["ramport", "qmp"]);

interface Pending {
  readonly command: string;
  readonly settle: Settle<unknown>;
}

/** A connection from its greeting to its end. Arguments and answers are never logged: they can hold secrets. */
export class QmpWire {
  readonly events = new EventHub();
  /** Resolves once, when the connection has ended: with the reason, or with undefined when this side closed it. */
  readonly closed: Promise<MachineError | undefined>;
  readonly #stream: Duplex;
  readonly #where: string;
  readonly #place: { readonly path?: string };
  readonly #splitter: LineSplitter;
  readonly #pending = new Map<number, Pending>();
  #greeting: Settle<Greeting> | undefined;
  #begun = false;
  #greeted = false;
  #ready = false;
  #nextId = 1;
  #end: { readonly reason: MachineError | undefined } | undefined;
  #resolveClosed: (reason: MachineError | undefined) => void = () => undefined;

  /**
   * @param stream - carries bytes both ways; owned from here on
   * @param where - names the peer in messages, ready to print
   * @param path - the Unix socket, for the errors' data
   * @param maxLineBytes - longest line accepted
   */
  constructor(stream: Duplex, where: string, path: string | undefined, maxLineBytes: number | undefined) {
    this.#stream = stream;
    this.#where = where;
    this.#place = path === undefined ? {} : { path };
    this.#splitter = new LineSplitter(maxLineBytes);
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    stream.on("data", (chunk: Buffer | string) =>
      this.#onData(typeof chunk === "string" ? Buffer.from(chunk) : chunk),
    );
    stream.on("end", () => this.#onGone(undefined));
    stream.on("close", () => this.#onGone(undefined));
    // Stays to the end: a stream without such a listener throws what happens to it after it was given up.
    stream.on("error", (error) => this.#onGone(error));
  }

  /** Waits for the greeting; to be called once, right after the construction. */
  greeting(limits: WaitLimits): Promise<Greeting> {
    return waitWithin<Greeting>(
      limits,
      (ms) =>
        new MachineError(
          "timeout",
          `${this.#where} accepted the connection but sent no greeting for ${ms} ms`,
          {
            ...this.#place,
            hint: BUSY_HINT,
          },
        ),
      (settle) => {
        if (this.#end !== undefined) settle.reject(this.#endError("before its greeting", this.#end.reason));
        this.#greeting = settle;
        return () => (this.#greeting = undefined);
      },
    );
  }

  /**
   * Sends a command and waits for its answer.
   *
   * @param verb - `execute`, or `exec-oob` to pass commands that wait
   */
  request(
    verb: "execute" | "exec-oob",
    command: string,
    args: unknown,
    limits: WaitLimits,
  ): Promise<unknown> {
    return waitWithin<unknown>(
      limits,
      (ms) =>
        new MachineError(
          "timeout",
          `${this.#where} did not answer ${printable(command)} within ${ms} ms`,
          this.#place,
        ),
      (settle) => {
        const before = `before ${printable(command)} was answered`;
        if (this.#end !== undefined) throw this.#endError(before, this.#end.reason);
        const id = this.#nextId++;
        const line = toLine({ [verb]: command, arguments: args, id }, command);
        this.#pending.set(id, { command, settle });
        logger.debug("{command} sent as {id}", { command, id });
        // One write per command: descriptors, once they can be sent, belong to the bytes of one command.
        this.#stream.write(line);
        // Ids are never used again, so the answer to an abandoned command finds nobody and is dropped.
        return () => this.#pending.delete(id);
      },
    );
  }

  /**
   * Lets events through, now that the capabilities are negotiated: one turn later, so that the caller's code after
   * `await connect` can set its listeners first, and in any case before the next answer.
   */
  ready(): void {
    this.#ready = true;
    setImmediate(() => this.events.release());
  }

  /** Ends the connection; resolves when the stream is closed. */
  async close(): Promise<void> {
    this.#finish(undefined);
    await this.closed;
  }

  #onData(chunk: Buffer): void {
    try {
      // Looked at before there is a whole line: other protocols greet without one, or only after their client.
      if (!this.#begun) {
        const start = chunk.toString("utf8", 0, 200).trimStart();
        if (start !== "" && !start.startsWith("{")) throw notQmp(this.#where, start.split("\n", 1)[0] ?? "");
        this.#begun = start !== "";
      }
      for (const line of this.#splitter.push(chunk)) {
        if (this.#end !== undefined) return;
        if (line.trim() !== "") this.#onLine(line);
      }
    } catch (error) {
      this.#finish(
        error instanceof MachineError ? error : new MachineError("qmp", "Reading failed", this.#place, error),
      );
    }
  }

  #onLine(line: string): void {
    if (!this.#greeted) {
      const greeting = parseGreeting(line, this.#where);
      this.#greeted = true;
      logger.debug("greeting from QEMU {major}.{minor}.{micro}", { ...greeting.version });
      this.#greeting?.resolve(greeting);
      return;
    }
    const message = parseMessage(line);
    if (message.kind !== "event") {
      this.#onAnswer(message);
      return;
    }
    const { name, data, timestamp } = message;
    const schema = eventDataSchemas.get(name);
    try {
      if (schema !== undefined) checkShape(schema, data, `The data of the event ${printable(name)}`);
    } catch (error) {
      // A migration must not be given up for an event of another shape than today's.
      logger.warn("event {name} left out: {error}", { name, error });
      return;
    }
    logger.debug("event {name}", { name });
    this.events.emit({ name, data, timestamp } satisfies QmpEvent);
  }

  #onAnswer(message: Exclude<Message, { kind: "event" }>): void {
    if (this.#ready) this.events.release();
    const { id } = message;
    if (id === undefined && message.kind === "error") {
      // QEMU leaves the id out when it could not read a command: which one is lost, so none can be answered safely.
      throw new MachineError(
        "qmp",
        `${this.#where} could not read a command: ${printable(message.desc, 1000)}`,
      );
    }
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (pending === undefined) {
      logger.debug("answer to {id}, for which nobody waits", { id });
      return;
    }
    logger.debug("{command} answered with {kind}", { command: pending.command, id, kind: message.kind });
    if (message.kind === "return") pending.settle.resolve(message.value);
    else pending.settle.reject(new QmpCommandError(pending.command, message.qmpClass, message.desc));
  }

  #onGone(cause: NodeJS.ErrnoException | undefined): void {
    if (this.#end !== undefined) return;
    const reset = cause === undefined || ["ECONNRESET", "EPIPE", "ECONNABORTED"].includes(cause.code ?? "");
    this.#finish(
      new MachineError(
        reset ? "connection-closed" : "io",
        cause === undefined
          ? `${this.#where} closed the connection`
          : `The connection to ${this.#where} broke: ${printable(cause.message)}`,
        this.#place,
        cause,
      ),
    );
  }

  #finish(reason: MachineError | undefined): void {
    if (this.#end !== undefined) return;
    this.#end = { reason };
    logger.debug("connection ended: {reason}", { reason: reason?.message ?? "closed by this side" });
    // A protocol error is the greeting's own answer; the end of the stream needs to say what it came before.
    this.#greeting?.reject(this.#endError("before its greeting", reason));
    for (const { command, settle } of [...this.#pending.values()]) {
      settle.reject(this.#endError(`before ${printable(command)} was answered`, reason));
    }
    this.events.end(reason);
    if (this.#stream.closed) this.#resolveClosed(reason);
    else this.#stream.once("close", () => this.#resolveClosed(reason));
    this.#stream.destroy();
  }

  #endError(before: string, reason: MachineError | undefined): MachineError {
    if (reason === undefined) {
      return new MachineError(
        "connection-closed",
        `The connection to ${this.#where} was closed ${before}`,
        this.#place,
      );
    }
    if (reason.code !== "connection-closed") return reason;
    return new MachineError("connection-closed", `${reason.message} ${before}`, this.#place, reason);
  }
}

function toLine(message: Readonly<Record<string, unknown>>, command: string): string {
  try {
    return `${JSON.stringify(message)}\n`;
  } catch (error) {
    throw new UsageError(`The arguments of ${printable(command)} cannot be written as JSON`, {}, error);
  }
}
