import { FormatError } from "../errors/index.js";
import { ByteWriter } from "../wire/index.js";
import type { DeviceState } from "./host.js";

/** `vmstate_globalstate` of QEMU's `migration/global_state.c`: what the guest did when it was migrated. */
const NAME = "globalstate";
const VERSION = 1;
/** Size of `GlobalState.runstate`. */
const RUNSTATE_BYTES = 100;
const LENGTH_BYTES = 4;

/** The section that tells a destination whether the guest ran; it stands among the devices. */
export function encodeGlobalState(running: boolean): DeviceState {
  const text = new TextEncoder().encode(running ? "running" : "paused");
  const buffer = new Uint8Array(RUNSTATE_BYTES);
  buffer.set(text);
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
 * @returns The host's own devices, and whether the guest ran; a source that does not say is taken to have run.
 * @throws FormatError when the section is not what it has to be.
 */
export function splitGlobalState(devices: readonly DeviceState[]): {
  readonly devices: readonly DeviceState[];
  readonly wasRunning: boolean;
} {
  const own = devices.filter(({ name }) => name !== NAME);
  const section = devices.find(({ name }) => name === NAME);
  if (section === undefined) return { devices: own, wasRunning: true };
  const text = decodeGlobalState(section);
  // `suspended` and the rest are states of machines that are none of ours.
  if (text !== "running" && text !== "paused") throw unknownState(text);
  return { devices: own, wasRunning: text === "running" };
}

function unknownState(actual?: string): FormatError {
  return new FormatError("malformed", "The state that the guest was in cannot be understood", {
    section: NAME,
    ...(actual === undefined ? {} : { actual }),
  });
}
