/**
 * Reads what the guests of this folder print on their serial port.
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

const START = /^ramport-guest id=([0-9A-F]{8}) start$/;
const PASS = /^ramport-guest id=([0-9A-F]{8}) pass=([0-9A-F]{8}) ok$/;
const BAD = /(?:id=([0-9A-F]{8}) )?pass=([0-9A-F]{8}) BAD addr=([0-9A-F]{8})$/;
/** The start of a bad line's end: what is left of it when a line was cut where the guest was moved. */
const CUT_BAD = /BAD addr=|D addr=| addr=|addr=/;

/**
 * Takes the output piece by piece.
 *
 * A restored guest goes on in the middle of the line that it was printing, so the first line may lack its start. Other
 * lines that are none of the guest's (the firmware's) are ignored.
 */
export class SerialReport {
  readonly #passes: PassReport[] = [];
  #rest = "";
  #lines = 0;
  #startId: string | undefined;

  /** Ids of guests that said they start here; a guest that was restored says nothing of the kind. */
  get startId(): string | undefined {
    return this.#startId;
  }

  /** The complete reports so far. */
  get passes(): readonly PassReport[] {
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
   * @throws MachineError when the guest found an error in its memory, or its passes do not follow each other.
   */
  push(text: string): PassReport[] {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    const before = this.#passes.length;
    for (const line of lines) this.#takeLine(line.replaceAll("\r", ""));
    return this.#passes.slice(before);
  }

  #takeLine(line: string): void {
    const first = this.#lines++ === 0;
    const bad = BAD.exec(line);
    if (bad !== null || (first && CUT_BAD.test(line))) {
      const [, id, pass, address] = bad ?? [];
      throw new MachineError("migration-failed", `The guest ${id ?? ""} found wrong memory: ${line}`, {
        ...(pass === undefined ? {} : { actual: `pass 0x${pass}` }),
        ...(address === undefined ? {} : { hint: `the first wrong word is at 0x${address}` }),
      });
    }
    const start = START.exec(line);
    if (start?.[1] !== undefined) this.#startId = start[1];
    const report = PASS.exec(line);
    if (report?.[1] === undefined || report[2] === undefined) return;
    const found = { id: report[1], pass: Number.parseInt(report[2], 16) };
    const last = this.#passes.at(-1);
    if (last !== undefined && (found.id !== last.id || found.pass !== last.pass + 1)) {
      throw new MachineError("migration-failed", "The guest's reports do not follow each other", {
        expected: `${last.id} pass ${last.pass + 1}`,
        actual: `${found.id} pass ${found.pass}`,
      });
    }
    this.#passes.push(found);
  }
}

/** Reads a whole output; see {@link SerialReport}. */
export function parseSerialReport(text: string): PassReport[] {
  return new SerialReport().push(text);
}
