/**
 * Processor time, for limits on work: what other processes of the machine do is not in it.
 *
 * @module
 */

import process from "node:process";

/** Milliseconds of processor time that this process has used. */
export function cpuTimeMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
