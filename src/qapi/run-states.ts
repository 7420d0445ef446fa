/**
 * QEMU's names for the states of a machine (QAPI's `RunState`).
 *
 * @module
 */

/** Run states that ramport knows, in QEMU's order: those of QEMU 7.2 to 11.1. */
export const RUN_STATES = [
  "debug",
  "inmigrate",
  "internal-error",
  "io-error",
  "paused",
  "postmigrate",
  "prelaunch",
  "finish-migrate",
  "restore-vm",
  "running",
  "save-vm",
  "shutdown",
  "suspended",
  "watchdog",
  "guest-panicked",
  "colo",
] as const;

/** A run state that ramport knows. */
export type KnownRunState = (typeof RUN_STATES)[number];

/** A run state; a newer QEMU may report one that ramport does not know. */
export type RunState = KnownRunState | (string & Record<never, never>);

/** Whether ramport knows this run state. */
export function isKnownRunState(state: string): state is KnownRunState {
  return (RUN_STATES as readonly string[]).includes(state);
}
