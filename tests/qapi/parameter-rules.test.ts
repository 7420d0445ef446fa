import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UsageError } from "../../src/errors/index.js";
import {
  capabilitiesFrom,
  checkParameters,
  checkParameterValue,
  DEFAULT_CAPABILITIES,
  DEFAULT_PARAMETERS,
  describeParameter,
  findParameterConflict,
  findUnsupportedParameter,
  PARAMETER_NAMES,
  PARAMETERS,
  type ParameterChanges,
  type ParameterName,
} from "../../src/qapi/index.js";

function isTaken(name: ParameterName, value: unknown): boolean {
  try {
    checkParameterValue(name, value);
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    expect((error as UsageError).message).toContain(name);
    return false;
  }
}

const MAX = Number.MAX_SAFE_INTEGER;

describe("ranges", () => {
  test.each([
    ["announce-initial", 0, 100_000],
    ["announce-max", 0, 100_000],
    ["announce-rounds", 0, 1000],
    ["announce-step", 1, 10_000],
    ["throttle-trigger-threshold", 1, 100],
    ["cpu-throttle-initial", 1, 99],
    ["cpu-throttle-increment", 1, 99],
    ["max-cpu-throttle", 1, 99],
    ["max-bandwidth", 0, MAX],
    ["avail-switchover-bandwidth", 0, MAX],
    ["max-postcopy-bandwidth", 0, MAX],
    ["downtime-limit", 0, 2_000_000],
    ["x-checkpoint-delay", 0, 2 ** 32 - 1],
    ["multifd-channels", 1, 255],
    ["multifd-zlib-level", 0, 9],
    ["multifd-qatzip-level", 1, 9],
    ["multifd-zstd-level", 0, 20],
    ["x-vcpu-dirty-limit-period", 1, 1000],
    ["vcpu-dirty-limit", 1, MAX],
  ] as const)("%s: %d to %d", (name, minimum, maximum) => {
    expect([minimum, maximum].map((value) => isTaken(name, value))).toEqual([true, true]);
    const outside = [minimum - 1, maximum + 1, minimum + 0.5, -1, NaN, Infinity, String(minimum), null, 1n];
    expect(outside.filter((value) => isTaken(name, value))).toEqual([]);
  });

  test.each([
    ["xbzrle-cache-size", 4096, 2 ** 52],
    ["x-rdma-chunk-size", 2 ** 20, 2 ** 30],
  ] as const)("%s: powers of two from %d to %d", (name, smallest, largest) => {
    const powers = Array.from({ length: 53 }, (_, exponent) => 2 ** exponent);
    expect(powers.filter((value) => isTaken(name, value))).toEqual(
      powers.filter((value) => value >= smallest && value <= largest),
    );
    const between = [smallest + 1, smallest * 3, largest - 1, 0, -smallest, MAX];
    expect(between.filter((value) => isTaken(name, value))).toEqual([]);
  });

  test("every integer parameter is in one of the tables above", () => {
    const integers = PARAMETER_NAMES.filter((name) => PARAMETERS[name].type === "integer");
    expect(integers).toHaveLength(19 + 2);
  });

  test("the message says what is taken and what was found", () => {
    expect(() => checkParameterValue("multifd-channels", 256)).toThrow(
      "The migration parameter multifd-channels must be an integer from 1 to 255 (found 256)",
    );
    expect(() => checkParameterValue("mode", "cpr")).toThrow(
      'must be one of normal, cpr-reboot, cpr-transfer, cpr-exec (found "cpr")',
    );
    expect(() => checkParameterValue("direct-io", undefined)).toThrow(
      "must be true or false (found a value of type undefined)",
    );
    expect(describeParameter("xbzrle-cache-size")).toBe(`a power of two from 4096 to ${MAX} bytes`);
  });

  test("no value makes a check fail with anything but a UsageError", () => {
    fc.assert(
      fc.property(fc.constantFrom(...PARAMETER_NAMES), fc.anything(), (name, value) => {
        isTaken(name, value);
      }),
    );
  });

  test("defaults are taken", () => {
    for (const name of PARAMETER_NAMES) {
      if (name !== "block-bitmap-mapping") expect(isTaken(name, DEFAULT_PARAMETERS[name]), name).toBe(true);
    }
    expect(isTaken("block-bitmap-mapping", undefined)).toBe(false);
  });
});

describe("conflicts", () => {
  test("max-cpu-throttle below cpu-throttle-initial", () => {
    const low = { ...DEFAULT_PARAMETERS, "cpu-throttle-initial": 50, "max-cpu-throttle": 49 };
    const problem = findParameterConflict(low, DEFAULT_CAPABILITIES);
    expect(problem).toMatchObject({ kind: "conflict", names: ["max-cpu-throttle", "cpu-throttle-initial"] });
    expect(findParameterConflict({ ...low, "max-cpu-throttle": 50 }, DEFAULT_CAPABILITIES)).toBeUndefined();
  });

  test("compression and TLS with mapped-ram", () => {
    const mapped = capabilitiesFrom(({ name }) => name === "mapped-ram");
    for (const changes of [{ "multifd-compression": "zstd" }, { "tls-creds": "tls0" }] as const) {
      const parameters = { ...DEFAULT_PARAMETERS, ...changes };
      expect(findParameterConflict(parameters, mapped)?.names).toEqual([
        "mapped-ram",
        ...Object.keys(changes),
      ]);
      expect(findParameterConflict(parameters, DEFAULT_CAPABILITIES)).toBeUndefined();
      expect(() => checkParameters(changes, DEFAULT_PARAMETERS, mapped)).toThrow(
        /mapped-ram does not work with/,
      );
    }
  });
});

describe("unsupported", () => {
  const OTHER: ParameterChanges = {
    "announce-initial": 51,
    "announce-max": 551,
    "announce-rounds": 6,
    "announce-step": 101,
    "tls-creds": "a",
    "tls-hostname": "a",
    "tls-authz": "a",
    "x-checkpoint-delay": 1,
    "multifd-compression": "zlib",
    "multifd-zlib-level": 2,
    "multifd-qatzip-level": 2,
    "multifd-zstd-level": 2,
    "block-bitmap-mapping": [],
    "x-vcpu-dirty-limit-period": 1,
    "vcpu-dirty-limit": 2,
    mode: "cpr-exec",
    "x-rdma-chunk-size": 2 ** 21,
    "cpr-exec-command": ["a"],
  };

  test("each is refused with another value than its default, with a reason", () => {
    const unsupported = PARAMETER_NAMES.filter((name) => !PARAMETERS[name].supported);
    expect(Object.keys(OTHER)).toEqual(unsupported);
    for (const name of unsupported) {
      const changes = { [name]: OTHER[name] };
      expect(findUnsupportedParameter(changes)).toMatchObject({ kind: "unsupported", names: [name] });
      expect(() => checkParameters(changes, DEFAULT_PARAMETERS, DEFAULT_CAPABILITIES)).toThrow(
        `The migration parameter ${name} is not supported: `,
      );
    }
  });

  test("the hint names the value that is left", () => {
    expect(findUnsupportedParameter({ mode: "cpr-exec" })?.hint).toBe("leave it at normal");
    expect(findUnsupportedParameter({ "tls-creds": "a" })?.hint).toBe("leave it at nothing");
    expect(findUnsupportedParameter({ "cpr-exec-command": ["a"] })?.hint).toBe("leave it at nothing");
    expect(findUnsupportedParameter({ "block-bitmap-mapping": [] })?.hint).toBe("do not set it");
  });

  test("the defaults themselves are no change", () => {
    expect(checkParameters(DEFAULT_PARAMETERS, DEFAULT_PARAMETERS, DEFAULT_CAPABILITIES)).toEqual(
      DEFAULT_PARAMETERS,
    );
    const copied = { ...DEFAULT_PARAMETERS, "cpr-exec-command": [] };
    expect(findUnsupportedParameter(copied)).toBeUndefined();
  });
});

describe("a change as a whole", () => {
  test("gives the parameters as they are afterwards", () => {
    const changes = { "cpu-throttle-initial": 99, "max-cpu-throttle": 99, "max-bandwidth": 0 };
    const after = checkParameters(changes, DEFAULT_PARAMETERS, DEFAULT_CAPABILITIES);
    expect(after).toEqual({ ...DEFAULT_PARAMETERS, ...changes });
  });

  test("a value out of range is refused whoever gives it", () => {
    const act = (): unknown =>
      checkParameters({ "downtime-limit": 2_000_001 }, DEFAULT_PARAMETERS, DEFAULT_CAPABILITIES);
    expect(act).toThrow("downtime-limit must be an integer from 0 to 2000000 ms (found 2000001)");
  });

  test("a conflict comes before what is unsupported", () => {
    const mapped = capabilitiesFrom(({ name }) => name === "mapped-ram");
    expect(() => checkParameters({ "tls-creds": "a" }, DEFAULT_PARAMETERS, mapped)).toThrow(
      /does not work with TLS/,
    );
  });
});
