import { setTimeout as sleep } from "node:timers/promises";

import { MachineError, UsageError } from "../errors/index.js";
import type { QmpClient } from "../qmp/index.js";
import type { FileState } from "./file-changes.js";
import { isServerAlive, type LazyMark, MARK_ID, readMark, serverName, tidyUp } from "./lazy-mark.js";

/** What a lazy restore finds: a QEMU that waits for its first migration, or one whose restore has to be taken up. */
export type FoundQemu =
  { readonly kind: "waiting" } | { readonly kind: "abandoned"; readonly mark: LazyMark };

/** The snapshot that is to be restored, as its file is now. */
export interface WantedSnapshot {
  readonly fingerprint: string;
  readonly path: string;
  readonly file: FileState;
}

/** How long a connection takes to be noticed as broken when the process at its other end has just died. */
const NOTICED_MS = 3000;
const POLL_MS = 50;

/**
 * Looks at what a QEMU is ready for.
 *
 * @throws MachineError `not-capable` for a QEMU that has a guest already, or is being filled by another process; UsageError
 *   for one that waits for the pages of another snapshot, or of the same one before it was written to.
 */
export async function findState(qmp: QmpClient, wanted: WantedSnapshot): Promise<FoundQemu> {
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
  expectSameFile(mark, wanted);
  await expectAbandoned(qmp, mark, status);
  return { kind: "abandoned", mark };
}

/**
 * The fingerprint is of the devices alone, and memory of two states is silent corruption. A file that moved, or a copy that
 * has kept its time, is as good as the file itself.
 */
function expectSameFile({ path: markPath, file: was }: LazyMark, { path, file: now }: WantedSnapshot): void {
  if (String(now.size) === was.size && String(now.mtimeNs) === was.mtimeNs) return;
  const isFile = String(now.ino) === was.ino && String(now.dev) === was.dev;
  const what = isFile
    ? "was written to since the guest began to run with memory of it"
    : path === markPath
      ? "is not the file that the guest began to run with memory of: it was replaced"
      : `is no copy of ${markPath} as it was when the guest began to run with memory of it`;
  throw new UsageError(`${path} ${what}; the guest would get pages of two states`, {
    expected: `${was.size} bytes, changed at ${seconds(was.mtimeNs)}`,
    actual: `${now.size} bytes, changed at ${seconds(String(now.mtimeNs))}`,
    hint:
      String(now.size) === was.size
        ? `if its content is surely the same: touch -d @${seconds(was.mtimeNs)} ${path} (cp -p keeps the time); else start the QEMU anew`
        : "name a copy that was made with cp -p before, or start the QEMU anew",
  });
}

/** Nanoseconds as touch takes them. */
function seconds(ns: string): string {
  const digits = ns.padStart(10, "0");
  return `${digits.slice(0, -9)}.${digits.slice(-9)}`;
}

/** Waits until QEMU has noticed that nobody serves it; what does not notice is told. */
async function expectAbandoned(qmp: QmpClient, first: LazyMark, firstStatus: string): Promise<void> {
  const limit = performance.now() + NOTICED_MS;
  let [mark, status] = [first, firstStatus];
  for (;;) {
    const isAlive = isServerAlive(mark);
    const isPaused = status === "postcopy-paused";
    if (isPaused && isAlive !== true) return;
    const isLate = performance.now() > limit;
    // One that has just lost its connection may be about to end, or to give up.
    if (
      isAlive === true ? !isPaused || isLate : isAlive === undefined && status !== "postcopy-recover-setup"
    ) {
      throw beingServed(mark, isPaused);
    }
    if (isLate && !isPaused) {
      await qmp.execute("migrate-pause", undefined, { oob: qmp.isOob }).catch(() => undefined);
    }
    if (performance.now() > limit + NOTICED_MS) {
      throw new MachineError("timeout", "QEMU does not notice that nobody serves its pages any more", {
        actual: status,
        hint: "run migrate-pause in it, and this command again",
      });
    }
    await sleep(POLL_MS);
    status = await migrationStatus(qmp);
    mark = (await readMark(qmp)) ?? mark;
  }
}

function beingServed(mark: LazyMark, isPaused: boolean): MachineError {
  const message = `This guest is being served by ${serverName(mark)}, with the pages of ${mark.path}`;
  const hint = isPaused
    ? "that process is to take its broken connection up again by itself; end it to have another one in its place"
    : "wait until query-migrate says completed";
  return new MachineError("not-capable", message, { hint });
}

/** What a process left that died before it began. */
async function forget(qmp: QmpClient, mark: LazyMark): Promise<void> {
  if (isServerAlive(mark) !== false) {
    throw new MachineError(
      "not-capable",
      `${serverName(mark).replace(/^p/, "P")} is about to restore ${mark.path} into this QEMU`,
      { hint: `if it is gone: object_del ${MARK_ID} in the QEMU's human monitor, or start the QEMU anew` },
    );
  }
  await tidyUp(qmp, mark);
}

/** `none` where there was no migration. */
async function migrationStatus(qmp: QmpClient): Promise<string> {
  return (await qmp.execute("query-migrate")).status ?? "none";
}
