/**
 * Reads what the guests of this folder print on their serial port.
 *
 * @module
 */

import { MachineError } from "../src/errors/index.js";
import { type PassReport, PassReports } from "./pass-reports.js";

export type { PassReport } from "./pass-reports.js";

const START = /^ramport-guest id=([0-9A-F]{8}) start$/;
const PASS = /^ramport-guest id=([0-9A-F]{8}) pass=([0-9A-F]{8}) ok$/;
const BAD = /(?:id=([0-9A-F]{8}) )?pass=([0-9A-F]{8}) BAD addr=([0-9A-F]{8,16})$/;
/** The start of a bad line's end: what is left of it when a line was cut where the guest was moved. */
const CUT_BAD = /BAD addr=|D addr=| addr=|addr=/;

/** Takes the output piece by piece. Lines that are none of the guest's (the firmware's) are ignored. */
export class SerialReport extends PassReports<PassReport> {
  #startId: string | undefined;

  /** Id of a guest that said here that it starts; one that was restored says nothing of the kind. */
  get startId(): string | undefined {
    return this.#startId;
  }

  protected override takeLine(line: string, first: boolean): void {
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
    this.takePass({ id: report[1], pass: Number.parseInt(report[2], 16) });
  }
}

/** Reads a whole output; see {@link SerialReport}. */
export function parseSerialReport(text: string): PassReport[] {
  return new SerialReport().push(text);
}
