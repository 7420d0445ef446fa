import { setTimeout as sleep } from "node:timers/promises";

import { SerialReport } from "../guests/serial-report.js";
import { MachineError, throwIfAborted } from "../src/errors/index.js";
import type { DemoMachine } from "./machines.js";

const PASS_TIMEOUT_MS = 60_000;
const POLL_MS = 20;

/**
 * What the guest says on its serial port, on one machine after the other: for the guest it is one output, so a line that is
 * missing, doubled or bad anywhere in it is an error.
 */
export class GuestOutput {
  readonly #report = new SerialReport();
  #machine: DemoMachine | undefined;
  #heard = 0;

  /** The guest's random id. */
  get id(): string {
    return this.#report.passes[0]?.id ?? "?";
  }

  /** Number of the last pass. */
  get pass(): number {
    return this.#report.passes.at(-1)?.pass ?? 0;
  }

  /** Goes on with another machine, once the one before has nothing more to say. */
  follow(machine: DemoMachine): void {
    this.#hear();
    this.#machine = machine;
    this.#heard = 0;
  }

  /**
   * Waits for so many more passes.
   *
   * @throws MachineError when one of them is bad or they do not come; CancelledError.
   */
  async morePasses(count: number, signal: AbortSignal, waiting: () => void): Promise<void> {
    const wanted = this.pass + count;
    const end = performance.now() + PASS_TIMEOUT_MS;
    while (this.pass < wanted) {
      throwIfAborted(signal);
      this.#hear();
      if (performance.now() > end) throw new MachineError("timeout", "The guest does not report any more");
      waiting();
      await sleep(POLL_MS);
    }
  }

  /** The first passes after one, as a clause. */
  describeAfter(pass: number): string {
    const next = this.#report.passes.filter((report) => report.pass > pass).slice(0, 3);
    return next.map((report) => `pass ${report.pass} ok`).join(", ");
  }

  #hear(): void {
    const text = this.#machine?.serialText() ?? "";
    this.#report.push(text.slice(this.#heard));
    this.#heard = text.length;
  }
}
