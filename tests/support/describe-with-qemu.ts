/**
 * Test suites that need a QEMU.
 *
 * @module
 */

import { afterEach, describe, test } from "vitest";

import { findQemu } from "./find-qemu.js";
import type { FoundQemu, QemuVersion } from "./find-qemu.js";
import { killAllQemus } from "./qemu.js";

/** Where nobody looks at skipped tests, a missing QEMU is a failure. */
export function isQemuRequired(): boolean {
  return [process.env.CI, process.env.RAMPORT_REQUIRE_QEMU].some(
    (value) => value !== undefined && !["", "0", "false"].includes(value),
  );
}

/**
 * A `describe` for tests that run QEMUs of the given version or versions. Start the machines within the tests: after
 * each test all of them are killed.
 *
 * Without such a QEMU the suite is skipped, and its name in the report says why; with `CI` or `RAMPORT_REQUIRE_QEMU` in
 * the environment it fails.
 */
export function describeWithQemu(
  version: QemuVersion | readonly QemuVersion[],
  title: string,
  body: (...found: FoundQemu[]) => void,
): void {
  const versions = typeof version === "string" ? [version] : version;
  const name = `${title} (QEMU ${versions.join(", ")})`;
  const found: FoundQemu[] = [];
  for (const one of versions) {
    const result = findQemu(one);
    if (!result.found) {
      reportMissing(name, result.reason);
      return;
    }
    found.push(result);
  }
  describe(name, () => {
    afterEach(killAllQemus);
    body(...found);
  });
}

const warned = new Set<string>();

function reportMissing(name: string, reason: string): void {
  if (isQemuRequired()) {
    test(name, () => {
      throw new Error(reason);
    });
  } else {
    // The short report only counts skipped tests.
    if (!warned.has(reason)) console.warn(`Tests with a QEMU are skipped: ${reason}`);
    warned.add(reason);
    test.skip(`${name}: skipped, ${reason}`);
  }
}
