/**
 * What the readers of the guests' serial output have in common: lines, and passes that follow each other.
 *
 * @module
 */

import { MachineError } from "../src/errors/index.js";

/** A pass that a guest completed. */
export interface PassReport {
  /** The guest's random id, eight hexadecimal digits: the same before and after a migration. */
  readonly id: string;
  readonly pass: number;
}

/**
 * Takes the output piece by piece.
 *
 * A restored guest goes on in the middle of the line that it was printing, so the first line may lack its start. Lines
 * that are none of the guest's own are for the reader to ignore.
 */
export abstract class PassReports<Report extends PassReport> {
  readonly #passes: Report[] = [];
  #rest = "";
  #lines = 0;

  /** The complete reports so far. */
  get passes(): readonly Report[] {
    return this.#passes;
  }

  /** What came after the last complete line. */
  get unfinishedLine(): string {
    return this.#rest;
  }

  /**
   * Takes more output.
   *
   * @returns the reports that became complete with it.
   * @throws MachineError when the guest found an error in its memory, its passes do not follow each other, or what else the
   *   reader looks for.
   */
  push(text: string): Report[] {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    const before = this.#passes.length;
    for (const line of lines) this.takeLine(line.replaceAll("\r", ""), this.#lines++ === 0);
    return this.#passes.slice(before);
  }

  /** @param first Whether it is the first line, whose start may be missing. */
  protected abstract takeLine(line: string, first: boolean): void;

  protected takePass(found: Report): void {
    const last = this.#passes.at(-1);
    if (last !== undefined) this.checkNext(last, found);
    this.#passes.push(found);
  }

  /** @throws MachineError when a report cannot come behind the last one. */
  protected checkNext(last: Report, found: Report): void {
    if (found.id !== last.id || found.pass !== last.pass + 1) {
      throw new MachineError("migration-failed", "The guest's reports do not follow each other", {
        expected: `${last.id} pass ${last.pass + 1}`,
        actual: `${found.id} pass ${found.pass}`,
      });
    }
  }
}
