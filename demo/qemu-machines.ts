import { spawnSync } from "node:child_process";

import { buildMultibootImage } from "../guests/multiboot.js";
import { MachineError } from "../src/errors/index.js";
import type { FoundQemu } from "../tests/support/qemu.js";
import { findQemu, killAllQemus, startQemu } from "../tests/support/qemu.js";
import type { DemoMachine, DemoMachines } from "./machines.js";
import type { Workspace } from "./workspace.js";

const MIB = 1 << 20;
const SYSTEM_BINARY = "qemu-system-x86_64";
/** Newest one that most people have first. */
const PREFERRED = ["10.0", "11.1", "7.2"] as const;

const GUEST = buildMultibootImage({
  staticRange: { start: MIB, end: 49 * MIB },
  dirtyRange: { start: 64 * MIB, end: 128 * MIB },
  togglingRange: { start: 128 * MIB, end: 136 * MIB },
});

/** The QEMU that the demo would take: one that the project fetched or was pointed at, or the system's own. */
export function findDemoQemu(): FoundQemu | undefined {
  for (const version of PREFERRED) {
    const qemu = findQemu(version);
    if (qemu.found) return qemu;
  }
  if (spawnSync(SYSTEM_BINARY, ["--version"]).status !== 0) return undefined;
  // What the finder takes for every version.
  process.env.RAMPORT_QEMU = SYSTEM_BINARY;
  const qemu = findQemu(PREFERRED[0]);
  return qemu.found ? qemu : undefined;
}

/** QEMUs of this machine. */
export class QemuMachines implements DemoMachines {
  readonly kind: string;
  readonly memoryBytes = 256 * MIB;
  readonly rewrittenBytes = 72 * MIB;
  readonly saveBandwidth = 128 * MIB;
  readonly #qemu: FoundQemu;
  readonly #workspace: Workspace;

  /** @throws MachineError when there is no QEMU. */
  constructor(workspace: Workspace) {
    const qemu = findDemoQemu();
    if (qemu === undefined) {
      const hint = "install one, or fetch one into .cache/ with: npm run fetch-qemu 10.0";
      throw new MachineError("not-capable", "There is no QEMU on this machine", { hint });
    }
    this.#qemu = qemu;
    this.kind = `QEMU ${qemu.realVersion}`;
    this.#workspace = workspace;
  }

  async start(incoming: boolean): Promise<DemoMachine> {
    const machine = await startQemu({
      version: this.#qemu.version,
      memoryBytes: this.memoryBytes,
      guestImage: GUEST,
      workDir: this.#workspace.path,
      ...(incoming ? { incoming: "defer" } : {}),
    });
    return {
      qmpPath: machine.qmpPath,
      serialText: () => machine.serial.text,
      kill: async () => {
        await machine.kill();
      },
    };
  }

  killAll(): Promise<void> {
    return killAllQemus();
  }
}
