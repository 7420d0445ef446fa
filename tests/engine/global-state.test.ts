import { describe, expect, test } from "vitest";

import { encodeGlobalState, splitGlobalState } from "../../src/engine/global-state.js";
import type { DeviceState } from "../../src/engine/host.js";

const DEVICE: DeviceState = {
  name: "serial",
  instance: 0,
  version: 3,
  payload: Uint8Array.of(1, 2),
  fields: [],
};

function changed(change: (payload: Uint8Array) => void): DeviceState {
  const state = encodeGlobalState(true);
  const payload = state.payload.slice();
  change(payload);
  return { ...state, payload };
}

describe("the globalstate section", () => {
  test("has QEMU's layout", () => {
    const { name, version, payload, fields } = encodeGlobalState(true);
    expect({ name, version }).toEqual({ name: "globalstate", version: 1 });
    // The length counts the NUL behind it.
    expect(Buffer.from(payload.subarray(0, 4)).toString("hex")).toBe("00000008");
    expect(Buffer.from(payload.subarray(4)).toString("latin1")).toBe("running".padEnd(100, "\0"));
    expect(fields.reduce((sum, { size }) => sum + size, 0)).toBe(payload.length);
  });

  test.each([
    [true, false],
    [false, false],
    [true, true],
    [false, true],
  ])("running %s, suspended %s comes back, and the other devices stay", (running, suspended) => {
    const split = splitGlobalState([encodeGlobalState(running, suspended), DEVICE]);
    expect(split).toEqual({ devices: [DEVICE], wasRunning: running, wasSuspended: suspended });
  });

  test("a guest that sleeps has the bytes that QEMU 9.0 and newer have", () => {
    const inMachine = (running: boolean): string =>
      Buffer.from(encodeGlobalState(running, true).payload).toString("latin1");
    expect(inMachine(true)).toBe(`\0\0\0\x0asuspended${"\0".repeat(91)}`);
    expect(inMachine(false)).toBe(`\0\0\0\x07paused${"\0".repeat(26)}\x01\x01${"\0".repeat(66)}`);
  });

  test("a source that does not say is taken to have run", () => {
    expect(splitGlobalState([DEVICE])).toEqual({ devices: [DEVICE], wasRunning: true, wasSuspended: false });
  });

  test.each<[string, DeviceState]>([
    ["another version", { ...encodeGlobalState(true), version: 2 }],
    ["too short", { ...encodeGlobalState(true), payload: new Uint8Array(103) }],
    ["a length of 0", changed((payload) => payload.fill(0, 0, 4))],
    ["a length past the buffer", changed((payload) => (payload[3] = 101))],
    ["a state that it cannot be in", changed((payload) => (payload[4] = 0x58))],
  ])("refuses %s", (_name, state) => {
    expect(() => splitGlobalState([state])).toThrow(/state that the guest was in/);
  });
});
