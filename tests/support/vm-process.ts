/**
 * Runs `ramport vm` machines for tests: the built program, in a process of its own.
 *
 * @module
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { type CliOptions, type CliResult, type CliRun, startRamport } from "./ramport-cli.js";
import { SerialLog } from "./serial-log.js";
import { WatchedMachine } from "./watched-machine.js";

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

const running = new Set<VmProcess>();

process.on("exit", () => {
  for (const vm of running) vm.killNow();
});

/** A running `ramport vm`. */
export class VmProcess extends WatchedMachine {
  /** QMP socket for what is tested. */
  readonly qmpPath: string;
  override readonly harnessQmpPath: string;
  readonly run: CliRun;
  /** Settles when the process has ended. */
  readonly exited: Promise<CliResult>;
  readonly #folder: string;

  /** Use {@link startVm}. */
  constructor(options: StartVmOptions) {
    const folder = mkdtempSync(path.join(tmpdir(), "rv-"));
    const serialPath = path.join(folder, "serial");
    super("ramport vm", new SerialLog(serialPath));
    this.#folder = folder;
    this.qmpPath = path.join(this.#folder, "qmp");
    this.harnessQmpPath = path.join(this.#folder, "harness");
    const { guest, memoryBytes = 32 << 20, incoming } = options;
    const guestPath = path.join(this.#folder, "guest");
    if (guest !== undefined) writeFileSync(guestPath, guest);
    const args = [
      ...["vm", "-m", `${memoryBytes / 1024}K`, "-serial", `file:${serialPath},append=on`],
      ...[this.qmpPath, this.harnessQmpPath].flatMap((socket) => [
        "-qmp",
        `unix:${socket},server=on,wait=off`,
      ]),
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
  override get stderr(): string {
    return this.run.stderr;
  }

  protected override get hasEnded(): boolean {
    return this.run.result !== undefined;
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
  override killNow(): void {
    this.run.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #cleanUp(result: CliResult): void {
    running.delete(this);
    this.release(result);
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
