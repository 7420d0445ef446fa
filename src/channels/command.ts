import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { assert, MachineError, printable, UsageError } from "../errors/index.js";
import type { ByteSink, ByteSource } from "./byte-stream.js";
import { SocketChannel } from "./socket.js";
import { systemError } from "./system-error.js";
import { formatMigrationUri } from "./uri.js";

/** The end of what a command says on standard error: what it says last is why it failed. */
const COMPLAINT_CHARACTERS = 500;
/** A command that has ended can have children that keep its standard error open; what they say is not waited for. */
const COMPLAINT_MS = 250;
/** How long a command may take to end after its pipe has broken, or after a signal. */
const ENDING_MS = 1000;

/** How a command ended. */
interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A program that runs for one migration. As QEMU does, only the program itself is signalled, not its children. */
class Command {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<Ending>;
  readonly #silent: Promise<unknown>;
  #complaint = "";
  #stopped = false;

  private constructor(child: ChildProcess, name: string) {
    this.name = name;
    this.#child = child;
    this.#ended = new Promise((resolve) => {
      child.once("exit", (code, signal) => resolve({ code, signal }));
    });
    const { stderr } = child;
    assert(stderr instanceof net.Socket, "standard error is no pipe");
    stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#complaint = (this.#complaint + text).slice(-COMPLAINT_CHARACTERS);
    });
    this.#silent = new Promise((resolve) => stderr.once("close", resolve));
    // Neither a child of the command that lives on with it must keep this process, nor be ended by a closed pipe.
    stderr.unref();
    child.on("error", () => undefined);
  }

  /**
   * Starts the program.
   *
   * @param pipe The one of its standard input and output that this process has the other end of; the other one is empty.
   * @throws UsageError without a program; MachineError `io` when it cannot be started.
   */
  static async start(
    args: readonly string[],
    pipe: "stdin" | "stdout",
  ): Promise<{ readonly command: Command; readonly channel: SocketChannel }> {
    const [program, ...rest] = args;
    if (program === undefined) throw new UsageError("There is no command to migrate with");
    const name = printable(formatMigrationUri({ kind: "exec", args }));
    try {
      const child = spawn(program, rest, {
        stdio: [pipe === "stdin" ? "pipe" : "ignore", pipe === "stdout" ? "pipe" : "ignore", "pipe"],
      });
      const command = new Command(child, name);
      await once(child, "spawn");
      const socket = child[pipe];
      assert(socket instanceof net.Socket, `${pipe} is no pipe`);
      return { command, channel: new SocketChannel(socket, name) };
    } catch (cause) {
      throw systemError("Starting", name, cause);
    }
  }

  /**
   * Waits for the end of the program.
   *
   * @throws MachineError `io` when it failed; `connection-closed` when it was stopped from here.
   */
  async succeed(): Promise<void> {
    const ending = await this.#ended;
    if (this.#stopped) {
      throw new MachineError("connection-closed", `${this.name} was stopped`, { path: this.name });
    }
    if (ending.code === 0) return;
    throw await this.#failure(ending);
  }

  /** Says why the program takes no more, which is better known from its end than from the broken pipe. */
  async explain(error: unknown): Promise<unknown> {
    await this.endsWithin(ENDING_MS);
    if (this.#stopped || !this.hasEnded) return error;
    const ending = await this.#ended;
    if (ending.code !== 0) return this.#failure(ending);
    return new MachineError(
      "connection-closed",
      `The command ended before it had read everything: ${this.name}`,
      { path: this.name },
      error,
    );
  }

  /** Ends the program, if it has not ended: by SIGTERM, and where that does not help by SIGKILL. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      if (this.hasEnded) return;
      this.#child.kill(signal);
      await this.endsWithin(ENDING_MS);
    }
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Waits for the end of the program, but not for long. */
  endsWithin(milliseconds: number): Promise<void> {
    return atMost(milliseconds, this.#ended);
  }

  async #failure({ code, signal }: Ending): Promise<MachineError> {
    await atMost(COMPLAINT_MS, this.#silent);
    const how = signal === null ? `with exit status ${code}` : `by ${signal}`;
    const complaint = printable(this.#complaint.trim(), COMPLAINT_CHARACTERS);
    const why = complaint === "" ? "" : `: ${complaint}`;
    return new MachineError("io", `The command ended ${how} (${this.name})${why}`, { path: this.name });
  }
}

/** Waits for what may never come. */
async function atMost(milliseconds: number, awaited: Promise<unknown>): Promise<void> {
  const timer = new AbortController();
  await Promise.race([awaited, sleep(milliseconds, undefined, timer).catch(() => undefined)]);
  timer.abort();
}

/** A migration into a program's standard input. */
export class CommandSink implements ByteSink {
  readonly #command: Command;
  readonly #channel: SocketChannel;

  private constructor(command: Command, channel: SocketChannel) {
    this.#command = command;
    this.#channel = channel;
  }

  /**
   * Starts the program; what it says on its standard output goes nowhere.
   *
   * @throws UsageError without a program; MachineError `io` when it cannot be started.
   */
  static async start(args: readonly string[]): Promise<CommandSink> {
    const { command, channel } = await Command.start(args, "stdin");
    return new CommandSink(command, channel);
  }

  async write(bytes: Uint8Array): Promise<void> {
    try {
      await this.#channel.write(bytes);
    } catch (error) {
      throw await this.#command.explain(error);
    }
  }

  /**
   * Closes the program's standard input and waits for its end.
   *
   * @throws MachineError `io`, with its exit status and what it said last, when it failed.
   */
  async end(): Promise<void> {
    await this.#channel.end();
    await this.#command.succeed();
  }

  async close(): Promise<void> {
    // Before the pipe: to a program that sees its input end, that looks like a whole migration.
    await this.#command.stop();
    await this.#channel.close();
  }
}

/** A migration from a program's standard output. */
export class CommandSource implements ByteSource {
  readonly #command: Command;
  readonly #channel: SocketChannel;

  private constructor(command: Command, channel: SocketChannel) {
    this.#command = command;
    this.#channel = channel;
  }

  /**
   * Starts the program, with an empty standard input.
   *
   * @throws UsageError without a program; MachineError `io` when it cannot be started.
   */
  static async start(args: readonly string[]): Promise<CommandSource> {
    const { command, channel } = await Command.start(args, "stdout");
    return new CommandSource(command, channel);
  }

  /** At the end it waits for the program's: the end of what a program wrote that failed is not the stream's. */
  async read(target: Uint8Array): Promise<number> {
    const count = await this.#channel.read(target);
    if (count === 0) await this.#command.succeed();
    return count;
  }

  async close(): Promise<void> {
    await this.#channel.close();
    // One that has written all that was wanted may still have something to do.
    if (!this.#command.hasEnded) await this.#command.endsWithin(ENDING_MS);
    await this.#command.stop();
  }
}
