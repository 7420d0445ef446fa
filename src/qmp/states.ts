/**
 * QEMU's names for the states of a machine and of a migration.
 *
 * @module
 */

/** Run states that ramport knows: those of QEMU 7.2 to 11.1. */
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

/** Migration states that ramport knows: those of QEMU 7.2 to 11.1. */
export const MIGRATION_STATUSES = [
  "none",
  "setup",
  "cancelling",
  "cancelled",
  "active",
  "postcopy-active",
  "postcopy-device",
  "postcopy-paused",
  "postcopy-recover-setup",
  "postcopy-recover",
  "completed",
  "failing",
  "failed",
  "colo",
  "pre-switchover",
  "device",
  "wait-unplug",
] as const;

/** A run state that ramport knows. */
export type KnownRunState = (typeof RUN_STATES)[number];

/** A run state; a newer QEMU may report one that ramport does not know. */
export type RunState = KnownRunState | (string & Record<never, never>);

/** A migration state that ramport knows. */
export type KnownMigrationStatus = (typeof MIGRATION_STATUSES)[number];

/** A migration state; a newer QEMU may report one that ramport does not know. */
export type MigrationStatus = KnownMigrationStatus | (string & Record<never, never>);

/** Whether ramport knows this run state. */
export function isKnownRunState(state: string): state is KnownRunState {
  return (RUN_STATES as readonly string[]).includes(state);
}

/** Whether ramport knows this migration state. */
export function isKnownMigrationStatus(status: string): status is KnownMigrationStatus {
  return (MIGRATION_STATUSES as readonly string[]).includes(status);
}
