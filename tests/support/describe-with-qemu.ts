/**
 * Test suites that need a QEMU.
 *
 * @module
 */

import { afterEach, describe } from "vitest";

import { findQemu } from "./find-qemu.js";
import type { FoundQemu, QemuVersion } from "./find-qemu.js";
import { reportMissing } from "./missing.js";
import { killAllQemus } from "./qemu.js";

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
      reportMissing({
        title: name,
        reason: result.reason,
        variable: "RAMPORT_REQUIRE_QEMU",
        subject: "a QEMU",
      });
      return;
    }
    found.push(result);
  }
  describe(name, () => {
    afterEach(killAllQemus);
    body(...found);
  });
}
