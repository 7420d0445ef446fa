/**
 * The Linux guest in `ramport vm` processes: it boots in one and moves on from there.
 *
 * @module
 */

import { setTimeout as sleep } from "node:timers/promises";

import { linuxCommandLine, type Workload } from "../../guests/linux/command-line.mjs";
import { type LinuxPassReport, LinuxReport } from "../../guests/linux-report.js";
import { MachineError } from "../../src/errors/index.js";
import type { MigrationInfo } from "../../src/qapi/index.js";
import type { FoundLinux } from "./linux-guest.js";
import { startVm, type VmProcess } from "./vm-process.js";

/** v86 puts the initramfs at 64 MiB. */
const MEMORY_BYTES = 128 << 20;
const PASS_TIMEOUT_MS = 120_000;
const POLL_MS = 20;

/** Capabilities and parameters of one move. */
export interface MoveSettings {
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly parameters?: Readonly<Record<string, number>>;
}

/** One guest, whatever process it is in. What it says in them is one output. */
export class LinuxVms {
  readonly report = new LinuxReport();
  readonly #args: readonly string[];
  #vm: VmProcess;
  #heard = 0;

  private constructor(vm: VmProcess, args: readonly string[]) {
    this.#vm = vm;
    this.#args = args;
  }

  /** Starts a process that boots the guest. */
  static async boot(linux: FoundLinux, workload: Workload): Promise<LinuxVms> {
    const args = ["-bios", linux.bios, "-vgabios", linux.vgaBios];
    const boot = ["-kernel", linux.kernel, "-initrd", linux.initrd, "-append", linuxCommandLine(workload)];
    const vm = await startVm({ memoryBytes: MEMORY_BYTES, args: [...args, ...boot] });
    return new LinuxVms(vm, args);
  }

  /** The process that it is in. */
  get vm(): VmProcess {
    return this.#vm;
  }

  /**
   * Waits for so many more passes.
   *
   * @throws MachineError when one is bad, missing or doubled, or they do not come.
   */
  async passes(count: number): Promise<readonly LinuxPassReport[]> {
    const before = this.report.passes.length;
    const end = performance.now() + PASS_TIMEOUT_MS;
    while (this.report.passes.length < before + count) {
      this.#hear();
      if (performance.now() > end) {
        const actual = this.#vm.serial.text.slice(-500);
        throw new MachineError("timeout", "The guest does not report any more", { actual });
      }
      await sleep(POLL_MS);
    }
    return this.report.passes.slice(before);
  }

  /**
   * Moves the guest to a new process while it runs, over a socket with a return path; the old one ends.
   *
   * @returns What the source says of it at its end.
   */
  async move(socketPath: string, settings: MoveSettings = {}): Promise<MigrationInfo> {
    const next = await startVm({
      memoryBytes: MEMORY_BYTES,
      incoming: `unix:${socketPath}`,
      args: this.#args,
    });
    const capabilities = Object.entries({ "return-path": true, ...settings.capabilities }).map(
      ([capability, state]) => ({ capability, state }),
    );
    await this.#vm.qmp("migrate-set-capabilities", { capabilities });
    if (settings.parameters !== undefined) {
      await this.#vm.qmp("migrate-set-parameters", { ...settings.parameters });
    }
    await this.#vm.qmp("migrate", { uri: `unix:${socketPath}` });
    const info = await this.#outcome();
    this.#hear();
    await this.#vm.kill();
    this.#vm = next;
    this.#heard = 0;
    return info;
  }

  async #outcome(): Promise<MigrationInfo> {
    while (true) {
      const info = (await this.#vm.qmp("query-migrate")) as MigrationInfo;
      if (info.status === "completed") return info;
      if (info.status === "failed" || info.status === "cancelled") {
        throw new MachineError(
          "migration-failed",
          `The migration ${info.status}: ${info["error-desc"] ?? ""}`,
        );
      }
      await sleep(POLL_MS);
    }
  }

  #hear(): void {
    const { text } = this.#vm.serial;
    this.report.push(text.slice(this.#heard));
    this.#heard = text.length;
  }
}
