import { setTimeout as sleep } from "node:timers/promises";

import type { PassReport } from "../../guests/serial-report.js";
import { MachineError } from "../../src/errors/index.js";
import { HarnessQmp, type QmpMessage } from "./qmp.js";
import type { SerialLog } from "./serial-log.js";

const START_TIMEOUT_MS = 60_000;
const PASS_TIMEOUT_MS = 60_000;
const CONNECT_AGAIN_MS = 20;

/** A machine in a process of its own, as the harness watches it: its guest's reports, and a QMP connection. */
export abstract class WatchedMachine {
  /** Output of the first serial port. */
  readonly serial: SerialLog;
  readonly #name: string;
  #qmp: HarnessQmp | undefined;

  /** @param name For messages. */
  constructor(name: string, serial: SerialLog) {
    this.#name = name;
    this.serial = serial;
  }

  /** What the process complained about so far. */
  abstract get stderr(): string;

  protected abstract get hasEnded(): boolean;

  /** QMP socket of the harness, which is connected to it. */
  abstract readonly harnessQmpPath: string;

  /** Events that came on the harness's QMP connection. */
  get events(): readonly QmpMessage[] {
    return this.#qmp?.events ?? [];
  }

  /** Runs a command on the harness's QMP connection. */
  async qmp(command: string, args?: QmpMessage): Promise<unknown> {
    if (this.#qmp === undefined)
      throw new MachineError("connection-closed", "The harness has no QMP connection yet");
    return this.#qmp.execute(command, args);
  }

  /** The guest's reports so far; throws when one is bad. */
  passes(): readonly PassReport[] {
    return this.serial.passes();
  }

  /** Waits for a report with this pass number or a higher one. */
  async waitForPass(pass: number, timeoutMs = PASS_TIMEOUT_MS): Promise<PassReport> {
    return this.serial.waitForPass(pass, timeoutMs);
  }

  /** Waits for more reports after what is there now, or after any first one. */
  async waitForMorePasses(count: number, timeoutMs = PASS_TIMEOUT_MS): Promise<PassReport> {
    const last = this.passes().at(-1) ?? (await this.waitForPass(0, timeoutMs));
    return this.waitForPass(last.pass + count, timeoutMs);
  }

  /** Waits until the harness's QMP connection stands. */
  async connect(): Promise<void> {
    const limit = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      if (this.hasEnded) {
        throw new MachineError("io", `${this.#name} ended at its start: ${this.stderr.trim()}`);
      }
      try {
        this.#qmp = await HarnessQmp.connect(this.harnessQmpPath);
        return;
      } catch (error) {
        if (Date.now() > limit) {
          throw new MachineError("timeout", `${this.#name} does not answer on its QMP socket`, {}, error);
        }
        await sleep(CONNECT_AGAIN_MS);
      }
    }
  }

  /** Ends the process without waiting: all that can be done when this process itself ends. */
  abstract killNow(): void;

  /** To be called when the process has ended: whoever waits for a report hears it. */
  protected release(ended: { readonly code: number | null; readonly signal: NodeJS.Signals | null }): void {
    this.#qmp?.close();
    const how = ended.signal ?? `status ${String(ended.code)}`;
    const message = `${this.#name} ended (${how}): ${this.stderr.trim()}`;
    this.serial.close(new MachineError("connection-closed", message));
  }
}
