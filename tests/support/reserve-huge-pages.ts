/**
 * Memory in pages of 2 MiB, for as long as a test takes.
 *
 * @module
 */

import { readFileSync, writeFileSync } from "node:fs";
import { onTestFinished } from "vitest";

const FREE = /^HugePages_Free: *(?<free>\d+)$/m;
const RESERVED = "/proc/sys/vm/nr_hugepages";

/**
 * Makes sure that so many huge pages are free, and gives back at the test's end what it had to reserve.
 *
 * @returns Why there are none; undefined when there are.
 */
export function reserveHugePages(count: number): string | undefined {
  const free = (): number => Number(FREE.exec(readFileSync("/proc/meminfo", "utf8"))?.groups?.free ?? 0);
  try {
    const missing = count - free();
    if (missing <= 0) return undefined;
    const change = (by: number): void => {
      writeFileSync(RESERVED, String(Number(readFileSync(RESERVED, "utf8")) + by));
    };
    change(missing);
    onTestFinished(() => change(-missing));
    return free() >= count ? undefined : "this machine has no memory in one piece for huge pages";
  } catch {
    return "this machine reserves no huge pages for an ordinary user, or has none";
  }
}
