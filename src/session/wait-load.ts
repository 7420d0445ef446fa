import { setTimeout as sleep } from "node:timers/promises";

import { CancelledError, MachineError, throwIfAborted } from "../errors/index.js";
import type { QmpClient } from "../qmp/index.js";
import type { RestoreJob } from "./restore-method.js";
import { progressOf, waitForMigration } from "./wait-migration.js";

const OFTEN = "often the machine type, the memory size or the devices differ";

/**
 * Waits until a destination has loaded everything and its guest can run.
 *
 * @throws MachineError `migration-failed` with QEMU's words, also when QEMU ends; CancelledError.
 */
export async function waitUntilLoaded({ qmp, onProgress, signal }: RestoreJob): Promise<void> {
  try {
    await waitForMigration(qmp, (info) => onProgress?.(progressOf("loading", info)), signal);
    // The load is complete a moment before the guest leaves this state.
    while ((await qmp.execute("query-status")).status === "inmigrate") {
      throwIfAborted(signal);
      await sleep(5);
    }
  } catch (error) {
    throw explain(error);
  }
}

/** A destination that fails closes its socket; its own words are better than that. */
export async function reasonOfDestination(qmp: QmpClient, error: unknown, mostTries = 20): Promise<unknown> {
  if (error instanceof CancelledError) return error;
  for (let tries = 0; tries < mostTries; tries++) {
    try {
      const { status, "error-desc": reason } = await qmp.execute("query-migrate");
      if (status === "failed") return loadFailed(reason, error);
    } catch (gone) {
      return explain(gone);
    }
    await sleep(25);
  }
  return error;
}

function explain(error: unknown): unknown {
  if (!(error instanceof MachineError)) return error;
  if (error.code === "migration-failed")
    return new MachineError(error.code, error.message, { hint: OFTEN }, error);
  if (error.code !== "connection-closed") return error;
  const hint = `its standard error or log says why; ${OFTEN}`;
  return new MachineError("migration-failed", "QEMU ended while it loaded the snapshot", { hint }, error);
}

function loadFailed(reason: string | undefined, cause: unknown): MachineError {
  const message = `QEMU's migration failed: ${reason ?? "no reason given"}`;
  return new MachineError("migration-failed", message, { hint: OFTEN }, cause);
}
