/**
 * Tests of guests that run while pages are missing.
 *
 * @module
 */

import { describe } from "vitest";

import { Userfaultfd } from "../../src/hosts/userfaultfd/userfaultfd.js";
import { reportMissing } from "./missing.js";

/** A suite that needs userfaultfd: skipped with the reason where it is not to be had. */
export function describeWithUserfaultfd(title: string, suite: () => void): void {
  try {
    Userfaultfd.open().close();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    reportMissing({ title, reason, subject: "userfaultfd" });
    return;
  }
  describe(title, suite);
}
