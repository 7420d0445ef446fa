/**
 * What the demo prints: lines, and one line of progress that is overwritten.
 *
 * @module
 */

/** Where the demo prints to. */
export interface Output {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

const WIDTH = 79;
const BAR_WIDTH = 23;

/** The screen. Progress appears on a terminal only; lines go anywhere. */
export class Screen {
  readonly #output: Output;
  #progress = false;

  constructor(output: Output) {
    this.#output = output;
  }

  line(text = ""): void {
    this.clearProgress();
    this.#output.write(`${text}\n`);
  }

  /** Shows what is going on until the next line. */
  progress(text: string): void {
    if (this.#output.isTTY !== true) return;
    this.#output.write(`\r\u001b[2K${text.slice(0, WIDTH)}`);
    this.#progress = true;
  }

  clearProgress(): void {
    if (this.#progress) this.#output.write("\r\u001b[2K");
    this.#progress = false;
  }
}

/** A size with its unit, right-aligned: `  68.0 MiB`. */
export function mebibytes(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

/** A bar for a value, beside others that share its `largest`. */
export function bar(value: number, largest: number): string {
  return "#".repeat(Math.max(1, Math.round((value / largest) * BAR_WIDTH)));
}

/** A duration as a person would say it. */
export function duration(ms: number): string {
  return ms < 1000 ? `${Math.max(1, Math.round(ms))} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** The lines that compare what a stream would have taken with what the file took. */
export function comparison(streamBytes: number, fileBytes: number, allocatedBytes: number): string[] {
  const rows = [
    ["a migration stream would take", streamBytes],
    ["the mapped-ram file, its length", fileBytes],
    ["on disk: zero pages take no room", allocatedBytes],
  ] as const;
  const largest = Math.max(...rows.map(([, bytes]) => bytes));
  return rows.map(
    ([name, bytes]) =>
      `            ${name.padEnd(33)}${mebibytes(bytes).padStart(11)} ${bar(bytes, largest)}`,
  );
}
