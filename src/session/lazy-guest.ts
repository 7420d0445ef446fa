import { setTimeout as sleep } from "node:timers/promises";

import { decodeGlobalState, isGlobalState } from "../engine/index.js";
import { MachineError, throwIfAborted } from "../errors/index.js";
import { type QmpClient, QmpCommandError } from "../qmp/index.js";
import type { Snapshot } from "../snapshot/index.js";

const POLL_MS = 5;

/** Whether the guest of a snapshot is to run when it is restored; one that does not say so ran. */
export function didRun(snapshot: Snapshot): boolean {
  if (snapshot.libvirt !== undefined) return snapshot.libvirt.wasRunning;
  const section = snapshot.sections.find(isGlobalState);
  if (section === undefined) return true;
  const { version } = section;
  // A suspended one sleeps on when it is started.
  return ["running", "suspended"].includes(
    decodeGlobalState({ payload: snapshot.readSection(section), version }),
  );
}

/** QEMU refuses postcopy where it cannot catch accesses to missing pages, and says why. */
export function explainRefusal(error: unknown): never {
  if (!(error instanceof QmpCommandError)) throw error;
  throw new MachineError(
    "not-capable",
    `This QEMU cannot be restored lazily: ${error.desc}`,
    {
      hint: "its RAM must be anonymous, or in tmpfs or hugetlbfs, and its user must be allowed userfaultfd; --mode eager always works",
    },
    error,
  );
}

/** The last of a load is a thread of QEMU's that ends. */
export async function waitUntilCompleted(qmp: QmpClient, signal: AbortSignal | undefined): Promise<void> {
  for (;;) {
    throwIfAborted(signal);
    const { status, "error-desc": reason } = await qmp.execute("query-migrate");
    if (status === "completed") return;
    if (status === "failed") {
      throw new MachineError("migration-failed", `QEMU's migration failed: ${reason ?? "no reason given"}`);
    }
    await sleep(POLL_MS);
  }
}
