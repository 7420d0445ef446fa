/**
 * Runs `ramport vm` machines for tests: the built program, in a process of its own.
 *
 * @module
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import type { PassReport } from "../../guests/serial-report.js";
import { MachineError } from "../../src/errors/index.js";
import { HarnessQmp, type QmpMessage } from "./qmp.js";
import { type CliOptions, type CliResult, type CliRun, startRamport } from "./ramport-cli.js";
import { SerialLog } from "./serial-log.js";

/** What machine to run. */
export interface StartVmOptions {
  /** A Multiboot image from `guests/`; a machine whose guest comes by a migration needs none. */
  readonly guest?: Uint8Array;
  /** Bytes of RAM, a multiple of 128 KiB; default 32 MiB. */
  readonly memoryBytes?: number;
  /** Waits for a migration: `defer` for one that `migrate-incoming` names later, or a URI. */
  readonly incoming?: string;
  /** The guest does not start by itself. */
  readonly paused?: boolean;
  /** More arguments. */
  readonly args?: readonly string[];
  readonly cli?: Pick<CliOptions, "inherit" | "wrapper" | "env">;
}

const START_TIMEOUT_MS = 30_000;
const PASS_TIMEOUT_MS = 60_000;

const running = new Set<VmProcess>();

process.on("exit", () => {
  for (const vm of running) vm.killNow();
});

/** A running `ramport vm`. */
export class VmProcess {
  /** QMP socket for what is tested. */
  readonly qmpPath: string;
  /** Output of the first serial port. */
  readonly serial: SerialLog;
  readonly run: CliRun;
  /** Settles when the process has ended. */
  readonly exited: Promise<CliResult>;
  readonly #folder: string;
  readonly #harnessPath: string;
  #qmp: HarnessQmp | undefined;

  /** Use {@link startVm}. */
  constructor(options: StartVmOptions) {
    this.#folder = mkdtempSync(path.join(tmpdir(), "rv-"));
    this.qmpPath = path.join(this.#folder, "qmp");
    this.#harnessPath = path.join(this.#folder, "harness");
    const serialPath = path.join(this.#folder, "serial");
    writeFileSync(serialPath, "");
    this.serial = new SerialLog(serialPath);
    const { guest, memoryBytes = 32 << 20, incoming } = options;
    const guestPath = path.join(this.#folder, "guest");
    if (guest !== undefined) writeFileSync(guestPath, guest);
    const args = [
      ...["vm", "-m", `${memoryBytes / 1024}K`, "-serial", `file:${serialPath},append=on`],
      ...[this.qmpPath, this.#harnessPath].flatMap((socket) => ["-qmp", `unix:${socket},server=on,wait=off`]),
      ...(guest === undefined ? [] : ["-kernel", guestPath]),
      ...(incoming === undefined ? [] : ["-incoming", incoming]),
      ...(options.paused === true ? ["-S"] : []),
      ...(options.args ?? []),
    ];
    this.run = startRamport(args, options.cli);
    running.add(this);
    this.exited = this.run.ended.then((result) => {
      this.#cleanUp(result);
      return result;
    });
  }

  get pid(): number | undefined {
    return this.run.process.pid;
  }

  /** What it complained about so far. */
  get stderr(): string {
    return this.run.stderr;
  }

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
      if (this.run.result !== undefined) {
        throw new MachineError("io", `ramport vm ended at its start: ${this.stderr.trim()}`);
      }
      try {
        this.#qmp = await HarnessQmp.connect(this.#harnessPath);
        return;
      } catch (error) {
        if (Date.now() > limit) {
          throw new MachineError("timeout", "ramport vm does not answer on its QMP socket", {}, error);
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  /** Ends it by its monitor. */
  async quit(): Promise<CliResult> {
    await this.qmp("quit");
    return this.exited;
  }

  /** Ends it at once, as if the host had lost it. */
  async kill(): Promise<CliResult> {
    this.run.kill("SIGKILL");
    return this.exited;
  }

  /** Ends the process without waiting: all that can be done when this process itself ends. */
  killNow(): void {
    this.run.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #cleanUp({ code, signal, stderr }: CliResult): void {
    running.delete(this);
    this.#qmp?.close();
    const how = signal ?? `status ${String(code)}`;
    this.serial.close(new MachineError("connection-closed", `ramport vm ended (${how}): ${stderr.trim()}`));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/**
 * Starts a machine and waits until it answers on QMP.
 *
 * @throws MachineError when it ends at once.
 */
export async function startVm(options: StartVmOptions = {}): Promise<VmProcess> {
  const vm = new VmProcess(options);
  try {
    await vm.connect();
  } catch (error) {
    await vm.kill();
    throw error;
  }
  return vm;
}

/** Ends every machine that this process started. */
export async function killAllVms(): Promise<void> {
  await Promise.all([...running].map((vm) => vm.kill()));
}
