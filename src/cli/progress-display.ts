import ora from "ora";

import type { TransferProgress } from "../engine/index.js";
import { bytes, rate } from "./format.js";

const BAR_CELLS = 24;

/** A line on the terminal that shows how far a command has come. */
export interface ProgressDisplay {
  update(progress: TransferProgress): void;
  /** Takes the line away so that something else can be printed; the next update brings it back. */
  pause(): void;
  stop(): void;
}

/** Starts the line on standard error. */
export function startProgress(): ProgressDisplay {
  // Ctrl-C must reach the command, which has to clean up: ora would swallow it with its input handling.
  const spinner = ora({ stream: process.stderr, discardStdin: false, color: "cyan" });
  return {
    update: (progress) => {
      spinner.text = progressLine(progress);
      if (!spinner.isSpinning) spinner.start();
    },
    pause: () => spinner.stop(),
    stop: () => spinner.stop(),
  };
}

/** The text of the line: bar and percentage where the total is known, then rates. */
export function progressLine(progress: TransferProgress): string {
  const { phase, transferredBytes, remainingBytes, totalBytes, bytesPerSecond, dirtyBytesPerSecond } =
    progress;
  const parts: string[] = [phase];
  if (totalBytes !== undefined && totalBytes > 0 && remainingBytes !== undefined) {
    const done = Math.min(1, Math.max(0, 1 - remainingBytes / totalBytes));
    const cells = Math.round(done * BAR_CELLS);
    parts.push(`${"█".repeat(cells)}${"░".repeat(BAR_CELLS - cells)} ${Math.floor(done * 100)} %`);
  }
  parts.push(bytes(transferredBytes));
  if (bytesPerSecond !== undefined) parts.push(rate(bytesPerSecond));
  if (remainingBytes !== undefined) parts.push(`${bytes(remainingBytes)} left`);
  if (dirtyBytesPerSecond !== undefined && dirtyBytesPerSecond > 0)
    parts.push(`guest dirties ${rate(dirtyBytesPerSecond)}`);
  return parts.join("  ");
}
