/**
 * QEMU's names for the states of a migration (QAPI's `MigrationStatus`).
 *
 * @module
 */

/** Migration states that ramport knows, in QEMU's order: those of QEMU 7.2 to 11.1. */
export const MIGRATION_STATUSES = [
  "none",
  "setup",
  "cancelling",
  "cancelled",
  "active",
  "postcopy-device",
  "postcopy-active",
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

/** A migration state that ramport knows. */
export type KnownMigrationStatus = (typeof MIGRATION_STATUSES)[number];

/** A migration state; a newer QEMU may report one that ramport does not know. */
export type MigrationStatus = KnownMigrationStatus | (string & Record<never, never>);

/** Whether ramport knows this migration state. */
export function isKnownMigrationStatus(status: string): status is KnownMigrationStatus {
  return (MIGRATION_STATUSES as readonly string[]).includes(status);
}
