/**
 * Follows the file that a machine's serial port writes to.
 *
 * A file, not a socket: a guest never waits for a busy test, and the whole output stays for a look after a failure.
 *
 * @module
 */

import { closeSync, openSync, readSync, watch, writeFileSync } from "node:fs";
import type { FSWatcher } from "node:fs";

import { SerialReport } from "../../guests/serial-report.js";
import type { PassReport } from "../../guests/serial-report.js";
import { MachineError } from "../../src/errors/index.js";

interface Waiter {
  readonly pass: number;
  readonly resolve: (report: PassReport) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** The output of a serial port, growing. */
export class SerialLog {
  readonly path: string;
  readonly #report = new SerialReport();
  readonly #fd: number;
  readonly #watcher: FSWatcher;
  /** A change can be lost between two of the watcher's reports. */
  readonly #poll: NodeJS.Timeout;
  readonly #buffer = Buffer.alloc(1 << 16);
  readonly #waiters = new Set<Waiter>();
  #text = "";
  #error: Error | undefined;
  #closed = false;

  /** @param path The file; it is made, or emptied. */
  constructor(path: string) {
    this.path = path;
    writeFileSync(path, "");
    this.#fd = openSync(path, "r");
    const follow = (): void => this.#readOn();
    this.#watcher = watch(path, follow);
    this.#poll = setInterval(follow, 200);
  }

  /** Everything that came so far. */
  get text(): string {
    this.#readOn();
    return this.#text;
  }

  /**
   * The guest's reports so far.
   *
   * @throws MachineError when one of them is bad.
   */
  passes(): readonly PassReport[] {
    this.#readOn();
    if (this.#error !== undefined) throw this.#error;
    return this.#report.passes;
  }

  /** The id of a guest that started here (and did not come by migration). */
  get startId(): string | undefined {
    this.#readOn();
    return this.#report.startId;
  }

  /** Waits for the report of this pass or a later one; rejects when a report is bad or the machine is gone. */
  async waitForPass(pass: number, timeoutMs: number): Promise<PassReport> {
    this.#readOn();
    if (this.#error !== undefined) throw this.#error;
    const last = this.#report.passes.at(-1);
    if (last !== undefined && last.pass >= pass) return last;
    if (this.#closed)
      throw new MachineError("connection-closed", `The guest is gone before its pass ${pass}`);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiters.delete(waiter);
        reject(
          new MachineError("timeout", `No pass ${pass} of the guest after ${timeoutMs} ms`, {
            actual: this.#report.passes.at(-1)?.pass ?? "no pass",
            path: this.path,
          }),
        );
      }, timeoutMs);
      const waiter: Waiter = { pass, resolve, reject, timer };
      this.#waiters.add(waiter);
    });
  }

  /** Ends it: what is there is read, and who still waits gets the error. */
  close(why: Error): void {
    if (this.#closed) return;
    this.#readOn();
    this.#closed = true;
    this.#watcher.close();
    clearInterval(this.#poll);
    closeSync(this.#fd);
    this.#settle(() => why);
  }

  #readOn(): void {
    if (this.#closed) return;
    for (;;) {
      const count = readSync(this.#fd, this.#buffer);
      if (count === 0) break;
      const text = this.#buffer.toString("latin1", 0, count);
      this.#text += text;
      try {
        this.#report.push(text);
      } catch (error) {
        this.#error ??= error as Error;
      }
    }
    this.#settle(() => this.#error);
  }

  #settle(failure: () => Error | undefined): void {
    const last = this.#report.passes.at(-1);
    const error = failure();
    for (const waiter of this.#waiters) {
      if (error === undefined && (last === undefined || last.pass < waiter.pass)) continue;
      this.#waiters.delete(waiter);
      clearTimeout(waiter.timer);
      if (error !== undefined) waiter.reject(error);
      else if (last !== undefined) waiter.resolve(last);
    }
  }
}
