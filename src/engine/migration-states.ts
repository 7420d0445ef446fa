import { assert } from "../errors/index.js";
import type { KnownMigrationStatus } from "../qapi/index.js";

/**
 * Which status may follow which: QEMU's `migrate_set_state` calls, without postcopy and COLO. An ended migration is
 * followed by the setup of the next one.
 */
const TRANSITIONS: Readonly<Partial<Record<KnownMigrationStatus, readonly KnownMigrationStatus[]>>> = {
  none: ["setup"],
  // A destination has no `device` and no `failing`, a source no short way to `completed` and `failed`.
  setup: ["active", "failing", "failed", "cancelling"],
  active: ["pre-switchover", "device", "completed", "failing", "failed", "cancelling"],
  "pre-switchover": ["device", "failing", "cancelling"],
  device: ["completed", "failing", "cancelling"],
  // All was done when the wish to cancel came.
  cancelling: ["cancelled", "completed"],
  failing: ["failed"],
  completed: ["setup"],
  failed: ["setup"],
  cancelled: ["setup"],
};

const ENDED: readonly KnownMigrationStatus[] = ["none", "completed", "failed", "cancelled"];

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
