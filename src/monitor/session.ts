import { once } from "node:events";
import type { Duplex } from "node:stream";

import { getLogger } from "@logtape/logtape";

import { asError } from "../errors/as-error.js";
import { checkArguments } from "./arguments.js";
import { isCommand, QMP_CAPABILITIES, runCommand } from "./commands.js";
import type { MachineEvent, MonitoredMachine } from "./machine.js";
import { MessageSplitter, type SplitMessage } from "./message-splitter.js";
import { CommandError, parseRequest, type Request } from "./request.js";
import { monitorVersion } from "./version.js";

const logger = getLogger(["ramport", "monitor"]);

/** A client that reads nothing is given up when so many events wait for it. */
const MAX_UNREAD_BYTES = 16 << 20;
/** How long a client may take to read the last answers. */
const LAST_WORDS_MS = 1000;

/** One client of a monitor, from its greeting to its end. Commands run one after the other, as in QEMU. */
export class MonitorSession {
  readonly #machine: MonitoredMachine;
  readonly #stream: Duplex;
  readonly #splitter = new MessageSplitter();
  #negotiated = false;

  constructor(machine: MonitoredMachine, stream: Duplex) {
    this.#machine = machine;
    this.#stream = stream;
  }

  /** Serves the client until it goes. Never rejects. */
  async run(): Promise<void> {
    const stop = this.#machine.onEvent((event) => this.#sendEvent(event));
    // A client that goes at any moment is the normal case; the loop below ends by it.
    this.#stream.on("error", (error) => logger.debug("client lost: {error}", { error }));
    this.#send({ QMP: { version: monitorVersion(), capabilities: [] } });
    try {
      // The last answers may still be on their way when the client has said all.
      const chunks = this.#stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
      for await (const chunk of chunks) {
        for (const message of this.#splitter.push(chunk)) {
          await this.#answer(message);
          await this.#untilRead();
        }
      }
    } catch (error) {
      logger.debug("client gone: {error}", { error });
    } finally {
      stop();
      await this.end();
    }
  }

  /** Ends it after what was sent so far, as long as the client reads. */
  async end(): Promise<void> {
    const stream = this.#stream;
    if (stream.closed) return;
    const giveUp = setTimeout(() => stream.destroy(), LAST_WORDS_MS);
    await new Promise<void>((resolve) => {
      stream.once("close", resolve);
      if (stream.destroyed) return;
      stream.end(() => stream.destroy());
    });
    clearTimeout(giveUp);
  }

  async #answer(message: SplitMessage): Promise<void> {
    let request: Request | undefined;
    try {
      if ("malformed" in message) throw new CommandError(message.malformed);
      request = parseRequest(message.text);
      const answer = await this.#run(request);
      this.#send({ return: answer, ...idOf(request) });
    } catch (error) {
      const refusal = error instanceof CommandError ? error : undefined;
      const desc = asError(error).message;
      logger.debug("{command} refused: {desc}", { command: request?.command ?? "a message", desc });
      this.#send({
        ...idOf(request ?? { id: refusal?.id }),
        error: { class: refusal?.qmpClass ?? "GenericError", desc },
      });
    }
  }

  async #run({ command, arguments: args }: Request): Promise<unknown> {
    logger.debug("{command}", { command });
    if (command === QMP_CAPABILITIES) return this.#negotiate(args);
    if (!this.#negotiated)
      throw new CommandError("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound");
    if (!isCommand(command))
      throw new CommandError(`The command ${command} has not been found`, "CommandNotFound");
    return runCommand(this.#machine, command, args);
  }

  #negotiate(args: Request["arguments"]): object {
    if (this.#negotiated) {
      const message = "Capabilities negotiation is already complete, command ignored";
      throw new CommandError(message, "CommandNotFound");
    }
    checkArguments(args, { "enable?": "array" });
    const [wanted] = Array.isArray(args.enable) ? (args.enable as readonly unknown[]) : [];
    if (wanted !== undefined)
      throw new CommandError(`This monitor has no capability ${JSON.stringify(wanted)}`);
    this.#negotiated = true;
    return {};
  }

  /** A client that sends many commands at once reads the answers to some before the next ones are run. */
  async #untilRead(): Promise<void> {
    const stream = this.#stream;
    if (!stream.writableNeedDrain || stream.destroyed) return;
    const heard = new AbortController();
    const { signal } = heard;
    const events = ["drain", "close"].map((name) => once(stream, name, { signal }));
    await Promise.race(events).catch(() => undefined);
    heard.abort();
    await Promise.allSettled(events);
  }

  #sendEvent(event: MachineEvent): void {
    if (!this.#negotiated) return;
    const nowMicroseconds = Math.round((performance.timeOrigin + performance.now()) * 1000);
    const timestamp = {
      seconds: Math.floor(nowMicroseconds / 1_000_000),
      microseconds: nowMicroseconds % 1_000_000,
    };
    this.#send({ timestamp, event: event.name, ...("data" in event ? { data: event.data } : {}) });
  }

  #send(message: object): void {
    if (this.#stream.destroyed || !this.#stream.writable) return;
    if (this.#stream.writableLength > MAX_UNREAD_BYTES) {
      logger.warn("a client that reads nothing is given up");
      this.#stream.destroy();
      return;
    }
    this.#stream.write(`${JSON.stringify(message)}\r\n`);
  }
}

function idOf({ id }: { readonly id?: unknown }): { readonly id?: unknown } {
  return id === undefined ? {} : { id };
}
