/**
 * Reads what the Linux guest (linux/init.sh) prints on its serial port.
 *
 * @module
 */

import { MachineError } from "../src/errors/index.js";
import { type PassReport, PassReports } from "./pass-reports.js";

/** A pass that the guest completed; its id is new at each boot. */
export interface LinuxPassReport extends PassReport {
  /** The guest's own clock: time since its boot, without the time that it stood still. */
  readonly uptimeSeconds: number;
}

const READY = /^guest=([0-9a-f]{8}) ready kept=\d+ rewritten=\d+ linux=(\S+)$/;
const PASS = /^guest=([0-9a-f]{8}) pass=(\d+) ok uptime=(\d+\.\d+)$/;
const BAD = /^guest=([0-9a-f]{8}) pass=(\d+) BAD files=(.*)$/;
/** What is left of a bad line when its start was printed before the guest was moved; no other line has it. */
const CUT_BAD = /(?:BAD files|files|iles|les|es|s)=(?:kept|rewritten|sum)\./;
/** Linux's own last words: an exception in the kernel, a processor that does not move on, and what comes of them. */
const KERNEL_FAILURE = /Kernel panic|\bBUG: |\bOops\b|self-detected stall/;

/**
 * Takes the output piece by piece. Lines that are none of the guest's (the kernel's) are ignored, but for the kernel's
 * failures; a clock that goes back is an error too.
 */
export class LinuxReport extends PassReports<LinuxPassReport> {
  #startId: string | undefined;
  #release: string | undefined;

  /** Id of a guest that said here that it is ready; one that was restored says nothing of the kind. */
  get startId(): string | undefined {
    return this.#startId;
  }

  /** What that guest's `uname -r` says. */
  get release(): string | undefined {
    return this.#release;
  }

  protected override takeLine(line: string, first: boolean): void {
    const bad = BAD.exec(line);
    if (bad !== null || (first && CUT_BAD.test(line))) {
      const [, id, pass, files] = bad ?? [];
      throw new MachineError("migration-failed", `The guest ${id ?? ""} found wrong memory: ${line}`, {
        ...(pass === undefined ? {} : { actual: `pass ${pass}` }),
        ...(files === undefined ? {} : { hint: `the wrong files are ${files}` }),
      });
    }
    if (KERNEL_FAILURE.test(line)) {
      throw new MachineError("migration-failed", `The guest's kernel failed: ${line}`);
    }
    const ready = READY.exec(line);
    if (ready !== null) [, this.#startId, this.#release] = ready;
    const [, id, pass, uptime] = PASS.exec(line) ?? [];
    if (id === undefined) return;
    this.takePass({ id, pass: Number(pass), uptimeSeconds: Number(uptime) });
  }

  protected override checkNext(last: LinuxPassReport, found: LinuxPassReport): void {
    super.checkNext(last, found);
    if (found.uptimeSeconds < last.uptimeSeconds) {
      throw new MachineError("migration-failed", "The guest's clock went back", {
        expected: `${last.uptimeSeconds} seconds or more`,
        actual: `${found.uptimeSeconds} seconds`,
      });
    }
  }
}
