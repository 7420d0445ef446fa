import { setTimeout as sleep } from "node:timers/promises";

import { MachineError, throwIfAborted } from "../errors/index.js";
import type { TransferProgress } from "../engine/index.js";
import type { MigrationInfo, QmpClient } from "../qmp/index.js";

const FIRST_POLL_MS = 5;
const LONGEST_POLL_MS = 100;

/**
 * Asks a QEMU how its migration goes until it has ended.
 *
 * @param onInfo Called with each answer while it goes on; may act on it.
 * @returns The last answer, `completed`.
 * @throws MachineError `migration-failed` with QEMU's own words, also when it was cancelled by somebody else;
 *   CancelledError when the signal fires (the migration is not stopped by this).
 */
export async function waitForMigration(
  qmp: QmpClient,
  onInfo: (info: MigrationInfo) => Promise<void> | void,
  signal: AbortSignal | undefined,
): Promise<MigrationInfo> {
  for (let pauseMs = FIRST_POLL_MS; ; pauseMs = Math.min(pauseMs * 1.5, LONGEST_POLL_MS)) {
    throwIfAborted(signal);
    const info = await qmp.execute("query-migrate", undefined, signal === undefined ? {} : { signal });
    switch (info.status) {
      case "completed":
        return info;
      case "failed":
        throw new MachineError(
          "migration-failed",
          `QEMU's migration failed: ${info["error-desc"] ?? "no reason given"}`,
        );
      case "cancelled":
        throw new MachineError("migration-failed", "The migration was cancelled by somebody else");
      default:
        await onInfo(info);
    }
    // Not with the signal: the check above turns it into our own error.
    await sleep(pauseMs);
  }
}

/**
 * Ends a migration that is under way and waits until it has ended: before that QEMU takes no other settings. Does nothing
 * when there is none; does not throw when the QEMU is gone.
 */
export async function endMigration(qmp: QmpClient): Promise<void> {
  try {
    if (!isUnderWay((await qmp.execute("query-migrate")).status)) return;
    await qmp.execute("migrate_cancel");
    for (let tries = 0; tries < 500; tries++) {
      if (!isUnderWay((await qmp.execute("query-migrate")).status)) return;
      await sleep(20);
    }
  } catch {
    // What brought us here says more than this does.
  }
}

/** Whether a status is one of a migration that has started and not ended. */
export function isUnderWay(status: string | undefined): boolean {
  return status !== undefined && !["none", "completed", "failed", "cancelled"].includes(status);
}

/** What QEMU says of its migration, as progress. */
export function progressOf(phase: string, { ram }: MigrationInfo): TransferProgress {
  if (ram === undefined) return { phase, transferredBytes: 0 };
  const { mbps, "dirty-pages-rate": dirtyPages, "page-size": pageSize, "dirty-sync-count": syncs } = ram;
  return {
    phase,
    transferredBytes: ram.transferred,
    remainingBytes: ram.remaining,
    totalBytes: ram.total,
    ...(mbps === undefined ? {} : { bytesPerSecond: (mbps * 1_000_000) / 8 }),
    ...(dirtyPages === undefined || pageSize === undefined
      ? {}
      : { dirtyBytesPerSecond: dirtyPages * pageSize }),
    ...(syncs === undefined ? {} : { dirtySyncCount: syncs }),
  };
}
