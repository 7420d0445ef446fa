/**
 * What becomes of tests that need something that is not on every machine.
 *
 * @module
 */

import { test } from "vitest";

/**
 * Where nobody looks at skipped tests, what is missing is a failure: with `CI` or one of these variables in the
 * environment.
 */
export function isRequired(...variables: readonly string[]): boolean {
  return ["CI", ...variables].some((name) => {
    const value = process.env[name];
    return value !== undefined && !["", "0", "false"].includes(value);
  });
}

/** What {@link reportMissing} reports. */
export interface Missing {
  /** Of the suite that cannot run. */
  readonly title: string;
  readonly reason: string;
  /** What makes it a failure besides `CI`: see {@link isRequired}. */
  readonly variable?: string;
  /** What the tests are run with, for a warning: the short report only counts skipped tests. */
  readonly subject?: string;
}

const warned = new Set<string>();

/** Stands in for a suite: fails where it is required, or else is skipped with the reason in its name. */
export function reportMissing({ title, reason, variable, subject }: Missing): void {
  if (isRequired(...(variable === undefined ? [] : [variable]))) {
    test(title, () => {
      throw new Error(reason);
    });
    return;
  }
  if (subject !== undefined && !warned.has(reason)) {
    console.warn(`Tests with ${subject} are skipped: ${reason}`);
    warned.add(reason);
  }
  test.skip(`${title}: skipped, ${reason}`);
}
