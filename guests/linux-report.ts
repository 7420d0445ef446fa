/**
 * Reads what the Linux guest (linux/init.sh) prints on its serial port.
 *
 * @module
 */

import { MachineError } from "../src/errors/index.js";
import type { PassReport } from "./serial-report.js";

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
 * Takes the output piece by piece.
 *
 * A restored guest goes on in the middle of the line that it was printing, so the first line may lack its start. Other
 * lines that are none of the guest's (the kernel's) are ignored, but for the kernel's failures.
 */
export class LinuxReport {
  readonly #passes: LinuxPassReport[] = [];
  #rest = "";
  #lines = 0;
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

  /** The complete reports so far. */
  get passes(): readonly LinuxPassReport[] {
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
   * @throws MachineError when the guest found an error in its memory, its kernel failed, its passes do not follow each
   *   other, or its clock went back.
   */
  push(text: string): LinuxPassReport[] {
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
    this.#takePass({ id, pass: Number(pass), uptimeSeconds: Number(uptime) });
  }

  #takePass(found: LinuxPassReport): void {
    const last = this.#passes.at(-1);
    if (last !== undefined && (found.id !== last.id || found.pass !== last.pass + 1)) {
      throw new MachineError("migration-failed", "The guest's reports do not follow each other", {
        expected: `${last.id} pass ${last.pass + 1}`,
        actual: `${found.id} pass ${found.pass}`,
      });
    }
    if (last !== undefined && found.uptimeSeconds < last.uptimeSeconds) {
      throw new MachineError("migration-failed", "The guest's clock went back", {
        expected: `${last.uptimeSeconds} seconds or more`,
        actual: `${found.uptimeSeconds} seconds`,
      });
    }
    this.#passes.push(found);
  }
}
