import type { MigrationUri } from "../../channels/index.js";
import { throwIfAborted } from "../../errors/index.js";

/** Whether a destination that is not there is found out only when the command has returned, as in QEMU. */
export function isSocket({ kind }: MigrationUri): boolean {
  return kind === "unix" || kind === "tcp";
}

/** Waits for work that never rejects, until the signal fires: then throws CancelledError. */
export async function settled(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  const aborted = new Promise<void>((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  throwIfAborted(signal);
  await Promise.race([work, aborted]);
  throwIfAborted(signal);
}
