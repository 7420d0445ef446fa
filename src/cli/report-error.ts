import process from "node:process";

import { printable, RamportError } from "../errors/index.js";

const LONGEST_MESSAGE = 2000;

/** Prints an error as one sentence; with `verbose` also what caused it. Never a stack trace, save for our own bugs. */
export function reportError(error: unknown, verbose: boolean): void {
  process.stderr.write(`ramport: ${describe(error)}\n`);
  if (!verbose) return;
  for (let cause = causeOf(error); cause !== undefined; cause = causeOf(cause)) {
    process.stderr.write(`  caused by: ${describeCause(cause)}\n`);
  }
  if (!(error instanceof RamportError) && error instanceof Error)
    process.stderr.write(`${error.stack ?? ""}\n`);
}

function describe(error: unknown): string {
  if (error instanceof RamportError || !(error instanceof Error)) return describeCause(error);
  const sentence = describeCause(error);
  // The system's errors have a code; what has none should have been caught by us.
  const isOurBug = !("code" in error);
  return isOurBug ? `internal error: ${sentence}; please report it with the output of --verbose` : sentence;
}

/** Causes come from elsewhere and may quote what a file holds. */
function describeCause(error: unknown): string {
  return printable(error instanceof Error ? error.message : String(error), LONGEST_MESSAGE);
}

function causeOf(error: unknown): unknown {
  return error instanceof Error ? error.cause : undefined;
}
