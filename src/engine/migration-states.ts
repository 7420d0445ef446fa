import { assert } from "../errors/index.js";
import type { KnownMigrationStatus } from "../qapi/index.js";

/**
 * Which status may follow which: QEMU's `migrate_set_state` calls, of both sides and without COLO. An ended migration is
 * followed by the setup of the next one.
 *
 * From `postcopy-device` on the guest is the destination's: a broken connection only pauses, and the one way back to a
 * source that runs is the destination's word that it could not load (SHUT with an error). QEMU 11.1 fails, and lets its
 * guest go on, when the connection breaks in `postcopy-device`; a destination whose word that it has loaded was lost then
 * runs as well.
 */
const TRANSITIONS: Readonly<Partial<Record<KnownMigrationStatus, readonly KnownMigrationStatus[]>>> = {
  none: ["setup"],
  // A destination has no `device` and no `failing`, a source no short way to `completed`, `postcopy-device` and `failed`.
  setup: ["active", "failing", "failed", "cancelling"],
  active: ["pre-switchover", "device", "postcopy-device", "completed", "failing", "failed", "cancelling"],
  "pre-switchover": ["device", "failing", "cancelling"],
  device: ["postcopy-device", "completed", "failing", "cancelling"],
  "postcopy-device": ["postcopy-active", "postcopy-paused", "failing", "failed"],
  // A destination fails of bad bytes, which no new connection makes good.
  "postcopy-active": ["postcopy-paused", "completed", "failed"],
  // The detour is the source's.
  "postcopy-paused": ["postcopy-recover-setup", "postcopy-recover", "failed"],
  "postcopy-recover-setup": ["postcopy-recover", "postcopy-paused"],
  "postcopy-recover": ["postcopy-active", "postcopy-paused", "failed"],
  // All was done when the wish to cancel came.
  cancelling: ["cancelled", "completed"],
  failing: ["failed"],
  completed: ["setup"],
  failed: ["setup"],
  cancelled: ["setup"],
};

const ENDED: readonly KnownMigrationStatus[] = ["none", "completed", "failed", "cancelled"];
const POSTCOPY: readonly KnownMigrationStatus[] = [
  "postcopy-device",
  "postcopy-active",
  "postcopy-paused",
  "postcopy-recover-setup",
  "postcopy-recover",
];

/** Whether the guest is the destination's while memory still comes: QEMU's `migration_in_postcopy`. */
export function isInPostcopy(status: KnownMigrationStatus): boolean {
  return POSTCOPY.includes(status);
}

/** Where one migration stands. */
export class MigrationState {
  #status: KnownMigrationStatus = "none";
  readonly #onStatus: ((status: KnownMigrationStatus) => void) | undefined;

  constructor(onStatus?: (status: KnownMigrationStatus) => void) {
    this.#onStatus = onStatus;
  }

  get status(): KnownMigrationStatus {
    return this.#status;
  }

  /** Whether a migration has begun and not ended. */
  get underWay(): boolean {
    return !ENDED.includes(this.#status);
  }

  /** Goes on to another status, and tells; an impossible one is a bug. */
  enter(next: KnownMigrationStatus): void {
    assert(
      TRANSITIONS[this.#status]?.includes(next) === true,
      `migration status ${next} after ${this.#status}`,
    );
    this.#status = next;
    this.#onStatus?.(next);
  }
}
