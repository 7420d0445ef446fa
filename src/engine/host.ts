import type { DirtyLog } from "./dirty-log/dirty-log.js";
import type { PostcopyHost } from "./postcopy/postcopy-host.js";
import type { HostRamBlock } from "./ram-block.js";

export { type Breathe, eventLoopTurns } from "./breathe.js";
export type { DirtyLog, DirtyLogCost } from "./dirty-log/dirty-log.js";
export { HashDirtyLog } from "./dirty-log/hash-dirty-log.js";
export { MarkedDirtyLog } from "./dirty-log/marked-dirty-log.js";
export { ShadowDirtyLog } from "./dirty-log/shadow-dirty-log.js";
export { eachPiece, type HostRamBlock } from "./ram-block.js";

/** A field of a device's payload, as the vmstate description shows it. */
export interface DeviceField {
  readonly name: string;
  /** QEMU's name of the type: `uint32`, `buffer`, ... */
  readonly type: string;
  /** Bytes on the wire. */
  readonly size: number;
}

/** The state of one device. */
export interface DeviceState {
  readonly name: string;
  /** Tells devices of one name apart. */
  readonly instance: number;
  /** Layout of the payload: a loader refuses a version that it does not know. */
  readonly version: number;
  readonly payload: Uint8Array;
  /** What the payload is made of; the sizes add up to its length. Read back from a file it is empty. */
  readonly fields: readonly DeviceField[];
}

/**
 * A machine that is embedded in this program, as the engine sees it: memory, device state, and a way to run and stop.
 *
 * A host checks what it is given before it changes itself: after {@link checkDevices} has returned,
 * {@link loadDevices} fails only for what could not be seen beforehand.
 */
export interface MigrationHost {
  /** Machine type in the configuration section: a file of another machine is refused. */
  readonly machine: string;
  /** Target page size in bytes: a power of two. */
  readonly pageSize: number;
  readonly running: boolean;
  /** How often the guest was set running: the engine sees by it that somebody else let a guest go on. */
  readonly runCount: number;
  /**
   * Whether the guest sleeps until something wakes it (ACPI S3; QEMU's run state `suspended`). It is read when a guest is
   * saved, and set when one has been loaded. {@link running} is about the machine: it runs around a guest that sleeps, and
   * {@link run} wakes nobody. Machines that have it undefined have no guests that sleep, and refuse those of others.
   */
  suspended?: boolean | undefined;
  /** 16 bytes, where the machine has one: with `validate-uuid` a migration from another one is refused. */
  readonly uuid?: Uint8Array;
  /**
   * The RAM blocks with views that are valid until the guest runs again: ask anew after every wait.
   *
   * While the guest stands still for a save, and while a load replaces its memory, other threads read and write through
   * these views, too: until {@link run} is called by the engine, or the save or load has ended, the memory behind them must
   * stay where it is. Of a guest that runs the engine copies what it writes, between two of its turns.
   */
  ramBlocks(): readonly HostRamBlock[];
  /** Lets the guest go on; does nothing when it runs already. */
  run(): Promise<void>;
  /** Stops the guest between two instructions; memory and device state then hold still. */
  stop(): Promise<void>;
  startDirtyLog(): DirtyLog;
  /** How it runs while pages are missing; hosts without it cannot, and refuse a migration that goes over to postcopy. */
  readonly postcopy?: PostcopyHost;
  /**
   * Slows the guest down for auto-converge; {@link running} does not change by it. Hosts without it cannot be slowed down.
   *
   * @param percent How much of its time the guest is kept from running, 0 to 99; 0 ends it.
   */
  throttle?(percent: number): void;
  /** The state of all devices, without what is in the RAM blocks. The guest must be stopped. */
  saveDevices(): readonly DeviceState[];
  /**
   * Says whether these devices could be loaded, and changes nothing.
   *
   * @throws FormatError when they could not: another version, another set of devices, damaged bytes.
   */
  checkDevices(devices: readonly DeviceState[]): void;
  /** Replaces the state of all devices; RAM was loaded before and stays. The guest must be stopped. */
  loadDevices(devices: readonly DeviceState[]): void;
}
