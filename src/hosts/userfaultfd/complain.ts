import fs from "node:fs";

const STANDARD_ERROR = 2;

/**
 * Writes a line to the process's standard error from any thread: the stream that Node has for it is written by the main
 * thread, which may be blocked.
 */
export function complain(line: string): void {
  try {
    fs.writeSync(STANDARD_ERROR, `ramport: ${line}\n`);
  } catch {
    // Nobody can be told.
  }
}
