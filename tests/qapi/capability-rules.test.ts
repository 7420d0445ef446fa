import { describe, expect, test } from "vitest";
import { UsageError } from "../../src/errors/index.js";
import {
  CAPABILITIES,
  CAPABILITY_NAMES,
  capabilitiesFrom,
  checkCapabilities,
  DEFAULT_CAPABILITIES,
  DEFAULT_PARAMETERS,
  findCapabilityConflict,
  findLateCapability,
  findUnsupportedCapability,
  type Capabilities,
  type CapabilityName,
  type MigrationParameters,
} from "../../src/qapi/index.js";

function only(...names: readonly CapabilityName[]): Capabilities {
  return capabilitiesFrom(({ name }) => names.includes(name));
}

describe("conflicts", () => {
  test.each([
    ["multifd", "xbzrle"],
    ["mapped-ram", "xbzrle"],
    ["mapped-ram", "postcopy-ram"],
    ["postcopy-ram", "x-ignore-shared"],
    ["dirty-limit", "auto-converge"],
    ["background-snapshot", "postcopy-ram"],
    ["background-snapshot", "dirty-bitmaps"],
    ["background-snapshot", "postcopy-blocktime"],
    ["background-snapshot", "late-block-activate"],
    ["background-snapshot", "return-path"],
    ["background-snapshot", "multifd"],
    ["background-snapshot", "pause-before-switchover"],
    ["background-snapshot", "auto-converge"],
    ["background-snapshot", "release-ram"],
    ["background-snapshot", "rdma-pin-all"],
    ["background-snapshot", "xbzrle"],
    ["background-snapshot", "validate-uuid"],
  ] as const)("%s and %s", (one, other) => {
    const problem = findCapabilityConflict(only(one, other), DEFAULT_PARAMETERS);
    expect(problem).toMatchObject({ kind: "conflict", names: [one, other] });
    expect(problem?.message).toBe(`The capabilities ${one} and ${other} do not work together`);
    expect(findCapabilityConflict(only(one), DEFAULT_PARAMETERS)).toBeUndefined();
    expect(findCapabilityConflict(only(other), DEFAULT_PARAMETERS)).toBeUndefined();
  });

  test.each([
    ["zero-copy-send", "xbzrle", only("zero-copy-send", "xbzrle", "multifd"), ["multifd", "xbzrle"]],
    ["zero-copy-send", "xbzrle", only("zero-copy-send", "xbzrle"), ["zero-copy-send", "multifd"]],
    [
      "background-snapshot",
      "zero-copy-send",
      only("background-snapshot", "zero-copy-send"),
      ["background-snapshot", "zero-copy-send"],
    ],
    [
      "background-snapshot",
      "x-colo",
      only("background-snapshot", "x-colo"),
      ["background-snapshot", "x-colo"],
    ],
  ] as const)("%s and %s, of which one needs a third", (_one, _other, set, names) => {
    expect(findCapabilityConflict(set, DEFAULT_PARAMETERS)?.names).toEqual(names);
  });

  test.each([
    ["postcopy-preempt", "postcopy-ram"],
    ["zero-copy-send", "multifd"],
    ["switchover-ack", "return-path"],
    ["x-colo", "return-path"],
  ] as const)("%s needs %s", (one, needed) => {
    const problem = findCapabilityConflict(only(one), DEFAULT_PARAMETERS);
    expect(problem).toMatchObject({ kind: "conflict", names: [one, needed] });
    expect(problem?.hint).toBe(`turn ${needed} on as well`);
    expect(findCapabilityConflict(only(one, needed), DEFAULT_PARAMETERS)).toBeUndefined();
  });

  test.each([
    ["mapped-ram", only("mapped-ram")],
    ["zero-copy-send", only("zero-copy-send", "multifd")],
  ] as const)("%s with compression or TLS", (name, set) => {
    const zlib: MigrationParameters = { ...DEFAULT_PARAMETERS, "multifd-compression": "zlib" };
    const tls: MigrationParameters = { ...DEFAULT_PARAMETERS, "tls-creds": "tls0" };
    expect(findCapabilityConflict(set, zlib)?.names).toEqual([name, "multifd-compression"]);
    expect(findCapabilityConflict(set, tls)?.names).toEqual([name, "tls-creds"]);
    expect(findCapabilityConflict(set, DEFAULT_PARAMETERS)).toBeUndefined();
    expect(findCapabilityConflict(DEFAULT_CAPABILITIES, { ...zlib, "tls-creds": "tls0" })).toBeUndefined();
  });

  test("everything that the engine supports together, but for what mapped-ram, multifd and postcopy exclude", () => {
    const supported = capabilitiesFrom((spec) => spec.supported);
    const without = (...names: readonly CapabilityName[]): readonly string[] | undefined => {
      const off = Object.fromEntries(names.map((name) => [name, false]));
      return findCapabilityConflict({ ...supported, ...off }, DEFAULT_PARAMETERS)?.names;
    };
    expect(without("multifd")).toEqual(["mapped-ram", "xbzrle"]);
    expect(without("mapped-ram")).toEqual(["multifd", "xbzrle"]);
    expect(without("xbzrle")).toEqual(["mapped-ram", "postcopy-ram"]);
    expect(without("xbzrle", "mapped-ram")).toEqual(["postcopy-ram", "x-ignore-shared"]);
    expect(without("xbzrle", "postcopy-ram")).toEqual(["postcopy-preempt", "postcopy-ram"]);
    expect(without("xbzrle", "postcopy-ram", "postcopy-preempt")).toBeUndefined();
    expect(without("multifd", "mapped-ram", "x-ignore-shared")).toBeUndefined();
  });
});

test("what QEMU takes and the engine lacks says so, and is no conflict", () => {
  for (const spec of CAPABILITIES) {
    const problem = findUnsupportedCapability({ [spec.name]: true });
    if (spec.supported) {
      expect(problem, spec.name).toBeUndefined();
    } else {
      expect(problem).toMatchObject({ kind: "unsupported", names: [spec.name] });
      expect(problem?.message).toContain(spec.reason);
    }
    expect(findUnsupportedCapability({ [spec.name]: false }), spec.name).toBeUndefined();
  }
});

describe("too late", () => {
  test("during a migration: every change, even one that changes nothing", () => {
    for (const changes of [{}, { events: true }, { events: false }]) {
      const problem = findLateCapability(changes, DEFAULT_CAPABILITIES, "outgoing");
      expect(problem).toMatchObject({ kind: "too-late", names: Object.keys(changes) });
    }
  });

  test("with an incoming migration's address: what decides about channels, unless it is on already", () => {
    const late = CAPABILITY_NAMES.filter(
      (name) => findLateCapability({ [name]: true }, DEFAULT_CAPABILITIES, "incoming") !== undefined,
    );
    expect(late).toEqual(["multifd", "postcopy-preempt"]);
    expect(findLateCapability({ multifd: true }, only("multifd"), "incoming")).toBeUndefined();
    expect(findLateCapability({ multifd: false }, only("multifd"), "incoming")).toBeUndefined();
  });

  test("before: nothing", () => {
    const all = capabilitiesFrom(() => true);
    expect(findLateCapability(all, DEFAULT_CAPABILITIES, "idle")).toBeUndefined();
  });
});

describe("a change as a whole", () => {
  test("gives the capabilities as they are afterwards, and leaves the others", () => {
    const current = only("events", "xbzrle");
    const after = checkCapabilities(
      { "mapped-ram": true, xbzrle: false },
      current,
      DEFAULT_PARAMETERS,
      "idle",
    );
    expect(after).toEqual(only("events", "mapped-ram"));
    expect(current).toEqual(only("events", "xbzrle"));
  });

  test.each([
    [
      "a conflict with what is on",
      { "mapped-ram": true },
      "idle",
      /mapped-ram and xbzrle do not work together/,
    ],
    // Both: the conflict is QEMU's own answer.
    ["a conflict before what is unsupported", { multifd: true }, "idle", /multifd and xbzrle do not work/],
    ["unsupported", { "release-ram": true }, "idle", /release-ram is not supported: .*; leave it off/],
    [
      "what is missing",
      { "switchover-ack": true },
      "idle",
      /switchover-ack needs the capability return-path/,
    ],
    ["a running migration", { events: true }, "outgoing", /while a migration runs/],
    ["an incoming one", { multifd: true }, "incoming", /multifd cannot be turned on/],
  ] as const)("%s is a UsageError", (_title, wanted, role, message) => {
    const act = (): unknown => checkCapabilities(wanted, only("xbzrle"), DEFAULT_PARAMETERS, role);
    expect(act).toThrow(UsageError);
    expect(act).toThrow(message);
  });
});
