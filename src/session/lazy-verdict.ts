import { setTimeout as sleep } from "node:timers/promises";

import { MachineError } from "../errors/index.js";
import type { Monitor } from "./lazy-monitor.js";

/** What a monitor is wanted for here. The QEMU's main thread may itself wait for a page, and then says nothing. */
export const TO_SEE = { purpose: "see how it stands", mostMs: 2000 };

/** How long a QEMU may take to read what was sent to it before the connection closed. */
const VERDICT_MS = 5000;
const POLL_MS = 5;
/** States of a destination that still reads. */
const UNDECIDED: ReadonlySet<string> = new Set(["setup", "active", "device"]);

/** Whether the QEMU's guest waits for pages. */
export async function isFilling(monitor: Monitor): Promise<boolean> {
  return (await migrationStatus(monitor)).startsWith("postcopy");
}

/**
 * Whether a QEMU whose connection has closed runs the guest, or will: what was sent before, it still reads. It says so only when
 * it has, and has failed when that was too little.
 */
export async function mayRunGuest(monitor: Monitor): Promise<boolean> {
  const limit = performance.now() + VERDICT_MS;
  for (;;) {
    const status = await migrationStatus(monitor);
    if (!UNDECIDED.has(status)) return status.startsWith("postcopy");
    // Without a word from it, the mark is what does no harm.
    if (performance.now() > limit) return true;
    await sleep(POLL_MS);
  }
}

/** `gone` for a QEMU that has ended. */
async function migrationStatus(monitor: Monitor): Promise<string> {
  try {
    const qmp = await monitor.client(TO_SEE);
    return (await qmp.execute("query-migrate", undefined, { timeoutMs: TO_SEE.mostMs })).status ?? "none";
  } catch (error) {
    // No answer may mean that its main thread waits for a page.
    return error instanceof MachineError && error.code === "timeout" ? "postcopy-silent" : "gone";
  }
}
