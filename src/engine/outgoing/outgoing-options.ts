import type { Capabilities, MigrationParameters } from "../../qapi/index.js";
import type { Clock } from "../clock.js";
import type { MigrationState } from "../migration-states.js";
import type { ProgressListener } from "../progress.js";
import type { OutgoingPostcopy } from "./postcopy/outgoing-postcopy.js";
import type { XbzrleCache } from "./xbzrle-cache.js";

/** How to migrate. */
export interface OutgoingOptions {
  readonly capabilities: Capabilities;
  /** Asked anew each time: some may change while the migration runs. */
  readonly parameters: () => MigrationParameters;
  /** The target's cache, for its statistics. */
  readonly xbzrle?: XbzrleCache;
  /** Whether a running guest goes on while most of its memory is sent; default true. */
  readonly live?: boolean;
  /** Where the migration stands, when it is in `setup` already; otherwise one of its own. */
  readonly state?: MigrationState;
  readonly clock?: Clock;
  /** For a target that was prepared by it: lets the migration go over to postcopy (`OutgoingMigration.startPostcopy`). */
  readonly postcopy?: OutgoingPostcopy;
  /** QEMU's MIGRATION_PASS event: a pass over dirty memory begins, from 1. */
  readonly onPass?: (pass: number) => void;
  /** The guest was stopped for the switch-over; or goes on because the migration did not end well. */
  readonly onGuest?: (change: "stopped" | "resumed") => void;
  readonly onProgress?: ProgressListener;
}
