import process from "node:process";

import type { ProgressListener } from "../engine/index.js";

/** Options that every command has. */
export interface CommonOptions {
  readonly json?: boolean;
  readonly verbose?: boolean;
  /** false with --no-progress. */
  readonly progress?: boolean;
}

/** What a running command shares with its user: cancelling, progress and messages. */
export interface CommandContext {
  readonly signal: AbortSignal;
  readonly onProgress: ProgressListener;
  /** A sentence for people; never part of the output that scripts read. */
  readonly onMessage: (message: string) => void;
  /** Lets a command hear of signals first: one that it returns true for cancels nothing. */
  readonly hearSignals: (listener: SignalListener) => void;
}

/** @returns Whether the signal is dealt with. */
export type SignalListener = (name: NodeJS.Signals) => boolean;

const CANCELLING_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs a command's work with progress on standard error. Ctrl-C, SIGTERM and a terminal that closes cancel it, so that it
 * can clean up; a second one ends the process at once.
 */
export async function withContext<T>(
  options: CommonOptions,
  work: (context: CommandContext) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  let listener: SignalListener | undefined;
  const cancel = (name: NodeJS.Signals): void => {
    if (!controller.signal.aborted && listener?.(name) === true) return;
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
  };
  for (const name of CANCELLING_SIGNALS) process.on(name, cancel);
  // Pseudo-terminals that nobody gave a size have 0 columns; a line of progress then has no end.
  const wanted = options.progress !== false && process.stderr.isTTY && process.stderr.columns > 0;
  const display = wanted
    ? await import("./progress-display.js").then((module) => module.startProgress())
    : undefined;
  const onMessage = (message: string): void => {
    display?.pause();
    process.stderr.write(`${message}\n`);
  };
  try {
    return await work({
      signal: controller.signal,
      onProgress: (progress) => display?.update(progress),
      onMessage,
      hearSignals: (heard) => (listener = heard),
    });
  } finally {
    display?.stop();
    for (const name of CANCELLING_SIGNALS) process.off(name, cancel);
  }
}

/** Writes a command's result: JSON for scripts, else lines for people. */
export function printResult(options: CommonOptions, result: object, lines: readonly string[]): void {
  process.stdout.write(
    options.json === true ? `${JSON.stringify(result, undefined, 2)}\n` : `${lines.join("\n")}\n`,
  );
}
