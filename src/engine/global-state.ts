import { FormatError, MachineError } from "../errors/index.js";
import { ByteWriter } from "../wire/index.js";
import type { DeviceState, MigrationHost } from "./host.js";

/** `vmstate_globalstate` of QEMU's `migration/global_state.c`: what the guest did when it was migrated. */
const NAME = "globalstate";
const VERSION = 1;
/** Size of `GlobalState.runstate`. */
const RUNSTATE_BYTES = 100;
const LENGTH_BYTES = 4;
/**
 * Since QEMU 9.0 the last of those bytes are two more fields: whether the other one counts, and whether a stopped guest
 * slept. No run state's name reaches that far.
 */
const AtByte = { hasSuspended: 32, suspended: 33 } as const;

/** The guest of a migration, as its source had it. */
export interface MigratedGuest {
  /** The host's own devices. */
  readonly devices: readonly DeviceState[];
  /** Whether the machine ran; a source that does not say is taken to have run. */
  readonly wasRunning: boolean;
  /** Whether the guest slept (ACPI S3), in a machine that ran or in one that was stopped. */
  readonly wasSuspended: boolean;
}

/** The section that tells a destination whether the guest ran, and whether it slept; it stands among the devices. */
export function encodeGlobalState(running: boolean, suspended = false): DeviceState {
  const text = new TextEncoder().encode(running ? (suspended ? "suspended" : "running") : "paused");
  const buffer = new Uint8Array(RUNSTATE_BYTES);
  buffer.set(text);
  if (suspended && !running) {
    buffer[AtByte.hasSuspended] = 1;
    buffer[AtByte.suspended] = 1;
  }
  return {
    name: NAME,
    instance: 0,
    version: VERSION,
    // The length counts the NUL.
    payload: new ByteWriter()
      .u32(text.length + 1)
      .raw(buffer)
      .finish(),
    fields: [
      { name: "size", type: "uint32", size: LENGTH_BYTES },
      { name: "runstate", type: "buffer", size: RUNSTATE_BYTES },
    ],
  };
}

/** Whether a section is the one that says what the guest did. */
export function isGlobalState({ name }: { readonly name: string }): boolean {
  return name === NAME;
}

/**
 * Reads the section: a run state by QEMU's name, `running` or `paused` as a rule.
 *
 * @throws FormatError when the section is not what it has to be.
 */
export function decodeGlobalState({ payload, version }: Pick<DeviceState, "payload" | "version">): string {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  if (version !== VERSION || payload.length !== LENGTH_BYTES + RUNSTATE_BYTES) throw unknownState();
  const length = view.getUint32(0);
  if (length < 1 || length > RUNSTATE_BYTES) throw unknownState();
  return new TextDecoder().decode(payload.subarray(LENGTH_BYTES, LENGTH_BYTES + length - 1));
}

/**
 * Takes that section out of the devices.
 *
 * @throws FormatError when the section is not what it has to be, or names a state that no guest is migrated in.
 */
export function splitGlobalState(devices: readonly DeviceState[]): MigratedGuest {
  const own = devices.filter(({ name }) => name !== NAME);
  const section = devices.find(({ name }) => name === NAME);
  if (section === undefined) return { devices: own, wasRunning: true, wasSuspended: false };
  const text = decodeGlobalState(section);
  if (text !== "running" && text !== "paused" && text !== "suspended") throw unknownState(text);
  // QEMU takes a suspended guest for one that is live: its machine is set running, and waits for what wakes the guest.
  return {
    devices: own,
    wasRunning: text !== "paused",
    wasSuspended: text === "suspended" || (text === "paused" && wasStoppedAsleep(section)),
  };
}

function wasStoppedAsleep({ payload }: Pick<DeviceState, "payload">): boolean {
  const byte = (at: number): number => payload[LENGTH_BYTES + at] ?? 0;
  return byte(AtByte.hasSuspended) !== 0 && byte(AtByte.suspended) !== 0;
}

/**
 * Says whether the host could take this guest, and changes nothing.
 *
 * @throws MachineError `not-capable` for one that sleeps, where the machine knows no sleep; FormatError for devices that
 *   could not be loaded.
 */
export function checkGuest(host: MigrationHost, { devices, wasSuspended }: MigratedGuest): void {
  if (wasSuspended && host.suspended === undefined) {
    throw new MachineError("not-capable", "The guest is suspended, and this machine cannot wake it", {
      hint: "wake it at the source before it is migrated",
    });
  }
  host.checkDevices(devices);
}

/** Replaces the state of the devices, and has the guest sleep or not as it did at its source. */
export function loadGuest(host: MigrationHost, { devices, wasSuspended }: MigratedGuest): void {
  host.loadDevices(devices);
  if (host.suspended !== undefined) host.suspended = wasSuspended;
}

function unknownState(actual?: string): FormatError {
  return new FormatError("malformed", "The state that the guest was in cannot be understood", {
    section: NAME,
    ...(actual === undefined ? {} : { actual }),
  });
}
