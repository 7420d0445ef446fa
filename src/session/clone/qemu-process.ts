import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

import { systemError } from "../../channels/index.js";
import { assert, CancelledError, MachineError, printable, UsageError } from "../../errors/index.js";
import { QmpClient } from "../../qmp/index.js";

/** How a process ended. */
export interface ProcessEnding {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** The descriptor that a QEMU finds its monitor's connection at. */
const MONITOR_FD = 3;
/** What makes a QEMU take it: a monitor for ramport alone, so that others' sockets stay free for their users. */
const MONITOR_ARGUMENTS = [
  "-chardev",
  `socket,id=ramport-monitor,fd=${MONITOR_FD}`,
  "-qmp",
  "chardev:ramport-monitor",
];
/** A QEMU that starts greets within that, even where many start at once. */
const GREETING_MS = 120_000;
/** The connection to a monitor breaks a moment before its process has ended. */
const ENDING_MS = 2000;
/** How long a QEMU that was told to quit may take to flush its disks. */
const QUIT_MS = 30_000;
/** Of what a QEMU said, the end is why it failed. */
const COMPLAINT_BYTES = 2000;

/** A QEMU that this process started, with a connection to its monitor from the first moment on. */
export class QemuProcess {
  readonly pid: number;
  /** Settles when the process has ended. */
  readonly exited: Promise<ProcessEnding>;
  readonly #child: ChildProcess;
  readonly #logPath: string;
  readonly #stream: Duplex;
  #qmp: QmpClient | undefined;

  private constructor(child: ChildProcess, logPath: string) {
    assert(child.pid !== undefined, "a process that started has no number");
    this.pid = child.pid;
    this.#child = child;
    this.#logPath = logPath;
    const stream = child.stdio[MONITOR_FD];
    assert(stream instanceof Duplex, "the monitor's connection has one direction only");
    this.#stream = stream;
    stream.on("error", () => undefined);
    child.on("error", () => undefined);
    this.exited = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  }

  /**
   * Starts it, in a process group of its own: a Ctrl-C in this terminal is not for it.
   *
   * @param argv The program and its arguments; those for the monitor are added.
   * @param logPath A new file for what it says on standard output and error.
   * @throws MachineError `io` when it cannot be started; UsageError without a program.
   */
  static async start(argv: readonly string[], logPath: string): Promise<QemuProcess> {
    const [program, ...args] = argv;
    if (program === undefined) throw new UsageError("There is no QEMU to start");
    let log: number | undefined;
    try {
      log = fs.openSync(logPath, "wx", 0o600);
      const child = spawn(program, [...args, ...MONITOR_ARGUMENTS], {
        stdio: ["ignore", log, log, "pipe"],
        detached: true,
      });
      const process = child.pid === undefined ? undefined : new QemuProcess(child, logPath);
      await once(child, "spawn");
      assert(process !== undefined, "a process without a number has started");
      return process;
    } catch (cause) {
      throw systemError("Starting", printable(program), cause);
    } finally {
      if (log !== undefined) fs.closeSync(log);
    }
  }

  /**
   * Waits until its monitor answers.
   *
   * @throws MachineError `io` with its words when it ended instead; CancelledError.
   */
  async connect(signal?: AbortSignal): Promise<QmpClient> {
    try {
      const limits = { timeoutMs: GREETING_MS, ...(signal === undefined ? {} : { signal }) };
      this.#qmp = await QmpClient.attach(this.#stream, limits);
      return this.#qmp;
    } catch (error) {
      throw await this.reasonFor(error);
    }
  }

  /** Why a connection to it broke: its own words, if it ended by itself. */
  async reasonFor(error: unknown): Promise<unknown> {
    if (!(error instanceof MachineError) || error.code !== "connection-closed") return error;
    const ending = await this.#endsWithin(ENDING_MS);
    if (ending === undefined) return error;
    const { code, signal } = ending;
    const how = signal === null ? `with exit status ${code}` : `by ${signal}`;
    const words = this.lastWords();
    return new MachineError("io", `QEMU ended ${how}${words === "" ? "" : `: ${words}`}`, {}, error);
  }

  /** What it said so far, or the end of it, in one line that is safe to print. */
  lastWords(): string {
    try {
      const lines = fs
        .readFileSync(this.#logPath, "utf8")
        .slice(-COMPLAINT_BYTES)
        .trim()
        .split(/\s*\n\s*/);
      // Warnings stand first; where one line says what failed, it is the last one.
      return printable(lines.slice(-3).join("; "), COMPLAINT_BYTES);
    } catch {
      return "";
    }
  }

  /** Ends it: asked to quit it can flush its disks, and later it is killed. */
  async quit(): Promise<void> {
    try {
      await this.#qmp?.execute("quit", undefined, { timeoutMs: QUIT_MS });
    } catch {
      // It is gone, or has to be killed.
    }
    if ((await this.#endsWithin(this.#qmp === undefined ? 0 : QUIT_MS)) === undefined) await this.kill();
  }

  /** Kills it, with the children of whatever started it, and waits for its end. */
  async kill(): Promise<void> {
    if (this.#hasEnded) return;
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch {
      this.#child.kill("SIGKILL");
    }
    await this.exited;
  }

  /** Lets go of it: it runs on when this process ends. */
  async release(): Promise<void> {
    await this.#qmp?.close();
    this.#stream.destroy();
    this.#child.unref();
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async #endsWithin(milliseconds: number): Promise<ProcessEnding | undefined> {
    const timer = new AbortController();
    const late = sleep(milliseconds, undefined, timer).catch(() => undefined);
    const ending = await Promise.race([this.exited, late]);
    timer.abort();
    return ending;
  }
}

/** An error that a signal has caused is a cancellation, whatever broke first. */
export function asCancelled(error: unknown, signal: AbortSignal | undefined): unknown {
  return signal?.aborted === true && !(error instanceof CancelledError)
    ? new CancelledError(undefined, error)
    : error;
}
