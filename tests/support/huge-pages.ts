/**
 * Huge pages of the machine's, for memory that guests have in them.
 *
 * @module
 */

import { readFileSync, writeFileSync } from "node:fs";
import { onTestFinished } from "vitest";

const POOL = "/proc/sys/vm/nr_hugepages";

/**
 * Sees to it that so many more huge pages of 2 MiB can be had than before, until the test has finished.
 *
 * @returns Why they cannot be had; undefined when they can.
 */
export function reserveHugePages(count: number): string | undefined {
  try {
    const before = Number(readFileSync(POOL, "utf8"));
    onTestFinished(() => {
      writeFileSync(POOL, String(before));
    });
    writeFileSync(POOL, String(before + count));
    const now = Number(readFileSync(POOL, "utf8"));
    return now >= before + count
      ? undefined
      : `the kernel has only ${now - before} of ${count} huge pages free`;
  } catch (error) {
    return `the kernel gives no huge pages: ${String(error)}`;
  }
}
