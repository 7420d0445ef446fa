import { setTimeout as sleep } from "node:timers/promises";

import { MachineError, UsageError } from "../errors/index.js";
import type { QmpClient } from "../qmp/index.js";
import { isServerAlive, type LazyMark, MARK_ID, readMark, removeMark } from "./lazy-mark.js";
import { putBackSettings } from "./migration-settings.js";

/** What a lazy restore finds: a QEMU that waits for its first migration, or one whose restore has to be taken up. */
export type FoundQemu =
  { readonly kind: "waiting" } | { readonly kind: "abandoned"; readonly mark: LazyMark };

/** How long a connection takes to be noticed as broken when the process at its other end has just died. */
const NOTICED_MS = 3000;
const POLL_MS = 50;

/**
 * Looks at what a QEMU is ready for.
 *
 * @param wanted The snapshot that is to be restored.
 * @throws MachineError `not-capable` for a QEMU that has a guest already, or is being filled by another process; UsageError
 *   for one that waits for the pages of another snapshot.
 */
export async function findState(
  qmp: QmpClient,
  wanted: { readonly fingerprint: string; readonly path: string },
): Promise<FoundQemu> {
  // At once: each answer costs a turn of the QEMU's main loop.
  const [{ status: runState }, mark, status] = await Promise.all([
    qmp.execute("query-status"),
    readMark(qmp),
    migrationStatus(qmp),
  ]);
  if (!status.startsWith("postcopy")) {
    if (runState !== "inmigrate") {
      throw new MachineError(
        "not-capable",
        `This QEMU does not wait for a migration: its guest is ${runState}`,
        { hint: "start it with -incoming defer" },
      );
    }
    if (mark !== undefined) await forget(qmp, mark);
    return { kind: "waiting" };
  }
  if (mark === undefined) {
    throw new MachineError("not-capable", "This QEMU takes a postcopy migration that is not a lazy restore", {
      hint: "its own source has to go on with it",
    });
  }
  if (mark.fingerprint !== wanted.fingerprint) {
    throw new UsageError(`The guest of this QEMU waits for pages of another snapshot: ${mark.path}`, {
      actual: wanted.path,
      hint: "restore from that file, or start the QEMU anew",
    });
  }
  await expectAbandoned(qmp, mark, status);
  return { kind: "abandoned", mark };
}

/** Waits until QEMU has noticed that nobody serves it; what does not notice is told. */
async function expectAbandoned(qmp: QmpClient, mark: LazyMark, first: string): Promise<void> {
  const limit = performance.now() + NOTICED_MS;
  for (let status = first; status !== "postcopy-paused"; status = await migrationStatus(qmp)) {
    if (isServerAlive(mark) !== false && status !== "postcopy-recover-setup") {
      throw new MachineError(
        "not-capable",
        `This guest is being restored already: process ${mark.pid} on ${mark.host} sends it the pages of ${mark.path}`,
        { hint: "wait until query-migrate says completed" },
      );
    }
    if (performance.now() > limit) {
      await qmp.execute("migrate-pause", undefined, { oob: qmp.isOob }).catch(() => undefined);
    }
    if (performance.now() > limit + NOTICED_MS) {
      throw new MachineError("timeout", "QEMU does not notice that nobody serves its pages any more", {
        actual: status,
        hint: "run migrate-pause in it, and this command again",
      });
    }
    await sleep(POLL_MS);
  }
}

/** What a process left that died before it began. */
async function forget(qmp: QmpClient, mark: LazyMark): Promise<void> {
  if (isServerAlive(mark) !== false) {
    throw new MachineError(
      "not-capable",
      `Process ${mark.pid} on ${mark.host} is about to restore ${mark.path} into this QEMU`,
      { hint: `if it is gone: object_del ${MARK_ID} in the QEMU's human monitor, or start the QEMU anew` },
    );
  }
  await removeMark(qmp);
  await putBackSettings(qmp, mark.former);
}

/** `none` where there was no migration. */
async function migrationStatus(qmp: QmpClient): Promise<string> {
  return (await qmp.execute("query-migrate")).status ?? "none";
}
