import { expect, test } from "vitest";
import {
  CAPABILITIES,
  CAPABILITY_NAMES,
  capabilitiesFrom,
  DEFAULT_CAPABILITIES,
  isCapabilityName,
  PARAMETER_NAMES,
  PARAMETERS,
} from "../../src/qapi/index.js";

test("every capability is off by default, and stands once in the list", () => {
  expect(Object.keys(DEFAULT_CAPABILITIES)).toEqual(CAPABILITY_NAMES);
  expect(new Set(CAPABILITY_NAMES).size).toBe(CAPABILITY_NAMES.length);
  expect(Object.values(DEFAULT_CAPABILITIES)).toEqual(CAPABILITY_NAMES.map(() => false));
});

test("what the engine supports", () => {
  expect(CAPABILITIES.filter(({ supported }) => supported).map(({ name }) => name)).toEqual([
    "xbzrle",
    "auto-converge",
    "events",
    "postcopy-ram",
    "return-path",
    "pause-before-switchover",
    "multifd",
    "postcopy-blocktime",
    "late-block-activate",
    "x-ignore-shared",
    "validate-uuid",
    "postcopy-preempt",
    "mapped-ram",
  ]);
  expect(PARAMETER_NAMES.filter((name) => PARAMETERS[name].supported)).toEqual([
    "throttle-trigger-threshold",
    "cpu-throttle-initial",
    "cpu-throttle-increment",
    "cpu-throttle-tailslow",
    "max-bandwidth",
    "avail-switchover-bandwidth",
    "downtime-limit",
    "multifd-channels",
    "xbzrle-cache-size",
    "max-postcopy-bandwidth",
    "max-cpu-throttle",
    "zero-page-detection",
    "direct-io",
  ]);
});

test("a reason for each that it does not support continues a sentence", () => {
  const specs = [...CAPABILITIES, ...PARAMETER_NAMES.map((name) => PARAMETERS[name])];
  for (const spec of specs) {
    if (!spec.supported) expect(spec.reason).toMatch(/^[A-Za-z][^.]{10,}[^.]$/);
  }
});

test("names", () => {
  expect(isCapabilityName("mapped-ram")).toBe(true);
  for (const name of ["zero-blocks", "compress", "constructor", "__proto__", ""]) {
    expect(isCapabilityName(name), name).toBe(false);
  }
  expect(capabilitiesFrom(({ name }) => name === "events")).toEqual({
    ...DEFAULT_CAPABILITIES,
    events: true,
  });
});
