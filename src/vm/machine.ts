import type { DescriptorSets } from "../channels/index.js";
import { type MigrationHost, MigrationControl } from "../engine/index.js";
import { MachineError, UsageError } from "../errors/index.js";
import type { MachineEvent, MonitoredMachine, MonitoredMigration } from "../monitor/index.js";
import type { KnownMigrationStatus, KnownRunState, MigrationTarget } from "../qapi/index.js";

/** A host that can also be started anew. */
export interface ResettableHost extends MigrationHost {
  /** @throws MachineError when it cannot. */
  reset(): void;
  /**
   * Wakes a guest that sleeps. Hosts without it, and those whose `suspended` is undefined, have no such guests.
   *
   * @throws MachineError when it cannot; the guest then sleeps on.
   */
  wake?(): void;
  /** Hears when the guest goes to sleep; returns what ends that. */
  onSuspend?(listener: () => void): () => void;
}

/** Options of {@link VirtualMachine}. */
export interface VirtualMachineOptions {
  readonly name?: string;
  /** In text form; the host has its bytes. */
  readonly uuid?: string;
  readonly memoryBytes: number;
  /** Whether the guest comes by a migration: it then waits for one. */
  readonly incoming: boolean;
  /** Whether a guest that comes by a migration starts, if it ran where it comes from; default true. */
  readonly autostart?: boolean;
  /** What `file:/dev/fdset/N` stands for. */
  readonly descriptorSets?: DescriptorSets;
}

/** Why a machine has ended. */
export interface MachineEnd {
  /** QEMU's `ShutdownCause`: `host-qmp-quit`, `host-signal`, `host-error`. */
  readonly reason: string;
  /** What went wrong, if anything did. */
  readonly error?: Error;
}

/**
 * A machine with QEMU's run states, around a host and its migrations. It is what a monitor talks to.
 *
 * The guest of a new machine stands still: in `prelaunch`, or in `inmigrate` where it is to come by a migration.
 */
export class VirtualMachine implements MonitoredMachine {
  readonly name: string | undefined;
  readonly uuid: string | undefined;
  readonly memoryBytes: number;
  readonly migration: MonitoredMigration;
  /** Resolves when the machine is to end. */
  readonly ended: Promise<MachineEnd>;
  readonly #host: ResettableHost;
  readonly #control: MigrationControl;
  readonly #listeners = new Set<(event: MachineEvent) => void>();
  #runState: KnownRunState;
  /** Whether a guest that comes by a migration starts. */
  #autostart: boolean;
  /** Whether the migration that is under way is an incoming one. */
  #receiving = false;
  /** What the guest did when it was stopped for the switch-over; undefined outside of one. */
  #beforeSwitchOver: KnownRunState | undefined;
  /** The guest was handed over in postcopy: it must not run here again. */
  #isGone = false;
  #isEnding = false;
  #end: (end: MachineEnd) => void = () => undefined;

  constructor(host: ResettableHost, options: VirtualMachineOptions) {
    this.#host = host;
    this.name = options.name;
    this.uuid = options.uuid;
    this.memoryBytes = options.memoryBytes;
    this.#autostart = options.autostart ?? true;
    this.#runState = options.incoming ? "inmigrate" : "prelaunch";
    this.ended = new Promise((resolve) => (this.#end = resolve));
    const { descriptorSets } = options;
    this.#control = new MigrationControl(host, {
      ...(descriptorSets === undefined ? {} : { descriptorSets }),
      onStatus: (status) => this.#onMigrationStatus(status),
      onPass: (pass) => this.#emitWanted({ name: "MIGRATION_PASS", data: { pass } }),
      onGuest: (change) => this.#onSwitchOver(change),
      onLoaded: ({ wasRunning }) => this.#onLoaded(wasRunning),
    });
    host.onSuspend?.(() => this.#onSuspend());
    this.migration = migrationOf(this.#control, (target, exitOnError) => this.incoming(target, exitOnError));
  }

  get runState(): KnownRunState {
    return this.#runState;
  }

  async stop(): Promise<void> {
    if (this.#runState === "inmigrate") this.#autostart = false;
    // The guest then stays where it is if the migration does not end well.
    if (isLive(this.#beforeSwitchOver)) this.#beforeSwitchOver = "paused";
    if (!isLive(this.#runState)) return;
    this.#runState = "paused";
    await this.#host.stop();
    this.#emit({ name: "STOP" });
  }

  async cont(): Promise<void> {
    switch (this.#runState) {
      case "running":
      case "suspended":
        return;
      case "inmigrate":
        this.#autostart = true;
        return;
      case "finish-migrate":
        throw new MachineError("not-capable", "There's a migration process in progress", {
          hint: "cancel it first",
        });
      default:
        // A guest that sleeps is let go on all the same: what wakes it can only come now.
        this.#runState = this.#host.suspended === true ? "suspended" : "running";
        this.#emit({ name: "RESUME" });
        await this.#host.run();
    }
  }

  reset(): void {
    this.#host.reset();
    this.#emit({ name: "RESET", data: { guest: false, reason: "host-qmp-system-reset" } });
    if (this.#runState !== "suspended") return;
    // As in QEMU, what was reset in its sleep waits for `cont`.
    this.#runState = "prelaunch";
    void this.#host.stop();
  }

  wakeUp(): void {
    const host = this.#host;
    if (host.wake === undefined || host.suspended === undefined)
      throw new MachineError("not-capable", "wake-up from suspend is not supported by this guest");
    if (this.#runState !== "suspended")
      throw new UsageError("Unable to wake up: guest is not in suspended state");
    host.wake();
    this.#runState = "running";
    this.#emit({ name: "WAKEUP" });
  }

  quit(): void {
    this.shutDown({ reason: "host-qmp-quit" });
  }

  /** Begins to end the machine; only the first reason counts. */
  shutDown(end: MachineEnd): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#emit({ name: "SHUTDOWN", data: { guest: false, reason: end.reason } });
    this.#end(end);
  }

  /**
   * Waits for the guest to come by a migration.
   *
   * @param exitOnError Whether the machine ends when the migration fails; beginning it may also throw.
   * @throws UsageError when it cannot begin; MachineError when there is nothing to load from.
   */
  async incoming(target: MigrationTarget, exitOnError: boolean): Promise<void> {
    if (this.#runState !== "inmigrate") throw new UsageError("The machine does not wait for a migration");
    this.#receiving = true;
    try {
      await this.#control.incoming(target);
    } catch (error) {
      this.#receiving = false;
      throw error;
    }
    void this.#control.ended().then((error) => {
      if (error !== undefined && exitOnError) this.shutDown({ reason: "host-error", error });
    });
  }

  onEvent(listener: (event: MachineEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends what migration is under way; the host is the caller's. */
  async close(): Promise<void> {
    await this.#control.close();
  }

  #onMigrationStatus(status: KnownMigrationStatus): void {
    this.#emitWanted({ name: "MIGRATION", data: { status } });
    const hasEnded = status === "completed" || status === "failed" || status === "cancelled";
    if (this.#receiving) {
      if (hasEnded) this.#receiving = false;
      return;
    }
    if (status === "device" || status === "pre-switchover") this.#enterSwitchOver();
    if (status === "postcopy-device") this.#isGone = true;
    // The destination has said that it never ran it.
    if (status === "failing") this.#isGone = false;
    if (!hasEnded) return;
    // In finish-migrate nobody lets it go on.
    if (status !== "completed" && this.#isGone) return;
    this.#isGone = false;
    if (status !== "completed") this.#leaveSwitchOver();
    else {
      this.#beforeSwitchOver = undefined;
      this.#runState = "postmigrate";
    }
  }

  #onSwitchOver(change: "stopped" | "resumed"): void {
    if (change === "resumed") {
      this.#leaveSwitchOver();
      return;
    }
    const ran = isLive(this.#runState);
    this.#enterSwitchOver();
    if (ran) this.#emit({ name: "STOP" });
  }

  #enterSwitchOver(): void {
    this.#beforeSwitchOver ??= this.#runState;
    this.#runState = "finish-migrate";
  }

  /** The migration did not end well, and the engine let a guest go on that it had stopped. */
  #leaveSwitchOver(): void {
    const before = this.#beforeSwitchOver;
    if (before === undefined) return;
    this.#beforeSwitchOver = undefined;
    this.#runState = before;
    if (isLive(before)) this.#emit({ name: "RESUME" });
    else void this.#host.stop();
  }

  #onSuspend(): void {
    // One that was stopped at that moment sleeps when it is let go on.
    if (this.#runState !== "running") return;
    this.#runState = "suspended";
    this.#emit({ name: "SUSPEND" });
  }

  async #onLoaded(wasRunning: boolean): Promise<void> {
    this.#runState = "paused";
    if (wasRunning && this.#autostart) await this.cont();
  }

  /** Events that QEMU sends only to those who asked for them. */
  #emitWanted(event: MachineEvent): void {
    if (this.#control.capabilities.events) this.#emit(event);
  }

  #emit(event: MachineEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

/** Whether the machine runs in that state, with its guest awake or asleep. */
function isLive(state: KnownRunState | undefined): boolean {
  return state === "running" || state === "suspended";
}

function migrationOf(
  control: MigrationControl,
  incoming: (target: MigrationTarget, exitOnError: boolean) => Promise<void>,
): MonitoredMigration {
  return {
    get capabilities() {
      return control.capabilities;
    },
    get parameters() {
      return control.parameters;
    },
    setCapabilities: (changes) => control.setCapabilities(changes),
    setParameters: (changes) => control.setParameters(changes),
    info: () => control.info(),
    migrate: (target) => unlessSlow(target, control.migrate(target)),
    incoming,
    cancel: () => control.cancel(),
    continue: (state) => control.continue(state),
    startPostcopy: () => control.startPostcopy(),
    pause: () => control.pause(),
    resume: (target) => unlessSlow(target, control.resume(target)),
    recover: (target) => control.recover(target),
  };
}

/** A destination may take long to answer: like QEMU, the command does not wait for it, so that it can be cancelled. */
async function unlessSlow(target: MigrationTarget, beginning: Promise<void>): Promise<void> {
  if (!isSocket(target)) return beginning;
  const answered = new Promise<void>((resolve) => setImmediate(resolve));
  // What comes later is told by the migration's status.
  beginning.catch(() => undefined);
  return Promise.race([beginning, answered]);
}

function isSocket({ uri, channels }: MigrationTarget): boolean {
  if (uri !== undefined) return uri.startsWith("tcp:") || uri.startsWith("unix:");
  return channels.some(({ addr }) => addr.transport === "socket" && addr.type !== "fd");
}
