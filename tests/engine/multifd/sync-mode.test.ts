import { expect, test } from "vitest";

import { multifdSyncModeOf, multifdSyncModeOfQemu } from "../../../src/engine/multifd/sync-mode.js";

test.each([
  ["pc-i440fx-7.2", "section"],
  ["pc-q35-8.0", "section"],
  ["virt-8.1", "round"],
  ["s390-ccw-virtio-10.0", "round"],
  ["pseries-3.0-sxxm", "section"],
  ["pc-q35-rhel9.2.0", "section"],
  ["virt-rhel9.4.0", "round"],
  ["pc-i440fx-rhel7.6.0", "section"],
  ["virt-rhel10.0.0", "round"],
  ["pc-i440fx-jammy-hpb", "section"],
  ["isapc", undefined],
  ["microvm", undefined],
  ["none", undefined],
  ["tiny", undefined],
])("%s syncs by %s", (machine, mode) => {
  expect(multifdSyncModeOf(machine)).toBe(mode);
});

test("without a machine type of a version, the QEMU decides", () => {
  expect(multifdSyncModeOfQemu({ major: 7, minor: 2 })).toBe("section");
  expect(multifdSyncModeOfQemu({ major: 8, minor: 0 })).toBe("section");
  expect(multifdSyncModeOfQemu({ major: 8, minor: 1 })).toBe("round");
  expect(multifdSyncModeOfQemu({ major: 11, minor: 1 })).toBe("round");
});
