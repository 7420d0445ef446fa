/**
 * Runs the command line as its users do: the built program, in a process of its own.
 *
 * @module
 */

import { spawn } from "node:child_process";
import type { ChildProcess, StdioOptions } from "node:child_process";
import { existsSync } from "node:fs";
import type { Socket } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { MachineError } from "../../src/errors/index.js";

/** The built program. */
export const CLI_MAIN = path.resolve(
  path.dirname(fileURLToPath(import.meta.url)),
  "..",
  "..",
  "dist",
  "cli",
  "main.js",
);

/** How a run ended and what it printed. */
export interface CliResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** How to run it. */
export interface CliOptions {
  /** Standard input; the default has nothing to read. */
  readonly stdin?: "ignore" | "pipe" | number;
  /** Standard output; the default is collected. A number is a descriptor of this process. */
  readonly stdout?: "pipe" | number;
  /**
   * Descriptors of this process, or sockets, that become 3, 4, ...; "pipe" makes a socket, whose other end is in
   * `process.stdio`.
   */
  readonly inherit?: readonly (number | "pipe" | Socket)[];
  /** What comes before it on the command line, such as `prlimit --fsize=4096`. */
  readonly wrapper?: readonly string[];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** A running command line. */
export class CliRun {
  readonly process: ChildProcess;
  /** Settles when it has ended and everything it printed was read. */
  readonly ended: Promise<CliResult>;
  readonly #stdout: Buffer[] = [];
  #stderr = "";
  #result: CliResult | undefined;

  constructor(args: readonly string[], options: CliOptions) {
    if (!existsSync(CLI_MAIN)) throw new MachineError("io", "The command line is not built: npm run build");
    const stdio: StdioOptions = [
      options.stdin ?? "ignore",
      options.stdout ?? "pipe",
      "pipe",
      ...(options.inherit ?? []),
    ];
    const [command = process.execPath, ...rest] = [
      ...(options.wrapper ?? []),
      process.execPath,
      CLI_MAIN,
      ...args,
    ];
    this.process = spawn(command, rest, {
      stdio,
      env: { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    this.process.stdout?.on("data", (chunk: Buffer) => this.#stdout.push(chunk));
    this.process.stderr?.setEncoding("utf8").on("data", (text: string) => (this.#stderr += text));
    this.ended = new Promise((resolve, reject) => {
      this.process.once("error", reject);
      this.process.once("close", (code, signal) => {
        this.#result = { code, signal, stdout: this.stdout.toString("utf8"), stderr: this.#stderr };
        resolve(this.#result);
      });
    });
  }

  /** What it printed so far, or wrote as a stream. */
  get stdout(): Buffer {
    return Buffer.concat(this.#stdout);
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** How it ended, if it has. */
  get result(): CliResult | undefined {
    return this.#result;
  }

  kill(signal: NodeJS.Signals): void {
    this.process.kill(signal);
  }

  /** Waits for a message on standard error. */
  async waitForMessage(pattern: RegExp, timeoutMs = 20_000): Promise<RegExpExecArray> {
    const limit = Date.now() + timeoutMs;
    for (;;) {
      const match = pattern.exec(this.#stderr);
      if (match !== null) return match;
      if (this.#result !== undefined || Date.now() > limit) {
        throw new MachineError("timeout", `No message like ${String(pattern)}, but: ${this.#stderr}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** Starts it. */
export function startRamport(args: readonly string[], options: CliOptions = {}): CliRun {
  return new CliRun(args, options);
}

/** Runs it to its end. */
export async function ramport(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return startRamport(args, options).ended;
}

/**
 * Runs it with `--json` to a good end.
 *
 * @returns What it printed; for the caller to say what that is.
 * @throws MachineError with its words when it failed.
 */
export async function ramportJson(
  args: readonly string[],
  options: CliOptions = {},
): Promise<Readonly<Record<string, unknown>>> {
  const result = await ramport([...args, "--json"], options);
  if (result.code !== 0) {
    throw new MachineError("io", `ramport ${args.join(" ")} ended with ${result.code}: ${result.stderr}`);
  }
  return JSON.parse(result.stdout) as Readonly<Record<string, unknown>>;
}
