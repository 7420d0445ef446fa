import { printable } from "../errors/index.js";
import type { LazyGuest, LazyRestoreResult } from "../session/lazy-options.js";
import { bytes, duration } from "./format.js";

/** What is said when the guest is there. */
export function guestLine({ guest, elapsedMs, remainingBytes }: LazyGuest): string {
  return `The guest is ${guest} after ${duration(elapsedMs)}; up to ${bytes(remainingBytes)} of its memory follow`;
}

/** What is said at the end. */
export function resultLines(result: LazyRestoreResult): string[] {
  const { machine, ramBytes, guest, totalTimeMs, guestMs, resumed, statistics, workingSet } = result;
  const after = guestMs === undefined ? "" : `, the guest after ${duration(guestMs)}`;
  const how = resumed ? "Went on with the lazy restore of" : "Restored";
  const lines = [
    `Mode lazy, as asked for: the guest runs first, its memory follows${result.preempt ? " (with preempt)" : ""}`,
    `${how} ${printable(machine)} with ${bytes(ramBytes)} of RAM in ${duration(totalTimeMs)}${after}`,
  ];
  if (statistics !== undefined) {
    const { requests, serviceMs } = statistics;
    const p99 =
      serviceMs.p99 === undefined ? "" : `, 99 % of them served within ${serviceMs.p99.toFixed(2)} ms`;
    lines.push(`It asked ${requests.toLocaleString("en-US")} times for pages${p99}`);
  }
  if (workingSet !== undefined) {
    const words = { "read-ahead": "read ahead", recorded: "recorded", "not-recorded": "not recorded" };
    const pages = workingSet.pages.toLocaleString("en-US");
    lines.push(`Working set ${words[workingSet.use]}: ${pages} pages, ${workingSet.path}`);
  }
  const hint = guest === "paused" ? ", as it was saved or asked for: continue it with cont" : "";
  lines.push(`The guest is ${guest}${hint}`);
  return lines;
}
