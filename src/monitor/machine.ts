import type {
  Capabilities,
  KnownRunState,
  MigrationInfo,
  MigrationParameters,
  MigrationTarget,
} from "../qapi/index.js";

/** The events that a machine tells of, with QEMU's data. */
export type MachineEvent =
  | { readonly name: "STOP" | "RESUME" | "SUSPEND" | "WAKEUP" }
  | {
      readonly name: "RESET" | "SHUTDOWN";
      readonly data: { readonly guest: boolean; readonly reason: string };
    }
  | { readonly name: "MIGRATION"; readonly data: { readonly status: string } }
  | { readonly name: "MIGRATION_PASS"; readonly data: { readonly pass: number } };

/**
 * The machine behind a monitor: what its commands ask of it. Everything that cannot be done throws one of ramport's
 * errors, whose message becomes the answer.
 */
export interface MonitoredMachine {
  readonly name: string | undefined;
  /** In its usual text form; undefined where the machine has none. */
  readonly uuid: string | undefined;
  readonly memoryBytes: number;
  readonly runState: KnownRunState;
  /** Stops the guest; in `inmigrate` it will not start when it has come. */
  stop(): Promise<void>;
  /** Lets the guest go on; in `inmigrate` it will start when it has come. */
  cont(): Promise<void>;
  reset(): void;
  /** Wakes a guest that sleeps (`suspended`). */
  wakeUp(): void;
  /** Begins to end the machine. */
  quit(): void;
  readonly migration: MonitoredMigration;
  /** Calls the listener for each event, from the moment on at which it happens; returns what ends that. */
  onEvent(listener: (event: MachineEvent) => void): () => void;
}

/** Migration of the machine, both ways. */
export interface MonitoredMigration {
  readonly capabilities: Capabilities;
  readonly parameters: MigrationParameters;
  setCapabilities(changes: Partial<Capabilities>): void;
  setParameters(changes: Partial<MigrationParameters>): void;
  info(): MigrationInfo;
  /** Resolves when it is under way. */
  migrate(target: MigrationTarget): Promise<void>;
  /**
   * Resolves when it listens, or the file is open.
   *
   * @param exitOnError Whether the machine ends when the migration fails.
   */
  incoming(target: MigrationTarget, exitOnError: boolean): Promise<void>;
  cancel(): void;
  continue(state: string): void;
  /** The guest goes on at the destination as soon as it can (`migrate-start-postcopy`). */
  startPostcopy(): void;
  /** Breaks the connection of a postcopy migration, on either side (`migrate-pause`). */
  pause(): void;
  /** Goes on over a new connection, at the source (`migrate` with `resume`); resolves when it is under way. */
  resume(target: MigrationTarget): Promise<void>;
  /** Waits for a new connection, at the destination (`migrate-recover`); resolves when it listens. */
  recover(target: MigrationTarget): Promise<void>;
}
