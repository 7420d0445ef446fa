import fs from "node:fs";
import path from "node:path";

import { MachineError } from "../../errors/index.js";
import type { QemuVersion } from "../../qmp/index.js";
import type { MachineType } from "./memory-plan.js";
import { asCancelled, QemuProcess } from "./qemu-process.js";

/** What a QEMU program can do. */
export interface QemuAbilities {
  readonly version: QemuVersion;
  readonly machines: readonly MachineType[];
}

/** A machine without anything: it takes no files, and lasts until it has answered. */
const NO_MACHINE = ["-machine", "none", "-S", "-nodefaults", "-no-user-config", "-display", "none"];

/**
 * Asks a QEMU program what it is, by running it without a machine for a moment.
 *
 * @param program The words before its options.
 * @param directory For its log.
 * @throws MachineError `io` when it does not start, `not-capable` when it is older than clones; CancelledError.
 */
export async function askQemu(
  program: readonly string[],
  directory: string,
  signal?: AbortSignal,
): Promise<QemuAbilities> {
  const logPath = path.join(directory, "ask.log");
  const process = await QemuProcess.start([...program, ...NO_MACHINE], logPath);
  try {
    const qmp = await process.connect(signal);
    checkVersion(qmp.version);
    const machines = await qmp.execute("query-machines");
    return {
      version: qmp.version,
      machines: machines.map(
        ({ name, alias, "is-default": isDefault, "default-ram-id": defaultRamId }): MachineType => ({
          name,
          isDefault: isDefault === true,
          ...(alias === undefined ? {} : { alias }),
          ...(defaultRamId === undefined ? {} : { defaultRamId }),
        }),
      ),
    };
  } catch (error) {
    throw asCancelled(await process.reasonFor(error), signal);
  } finally {
    await process.kill();
    fs.rmSync(logPath, { force: true });
  }
}

/** @throws MachineError `not-capable`. */
export function checkVersion({ major, minor, micro }: QemuVersion): void {
  if (major > 8 || (major === 8 && minor >= 2)) return;
  const message = `This QEMU is ${major}.${minor}.${micro}: mapping a part of a file privately as RAM came with 8.2`;
  throw new MachineError("not-capable", message, { hint: "use ramport restore" });
}
