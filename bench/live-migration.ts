/**
 * Moves a Linux guest from one `ramport vm` process to the next while it computes, with several limits of its downtime,
 * and prints what each move took: `npm run bench:live`.
 *
 * @module
 */

import fs from "node:fs";
import os from "node:os";
import path from "node:path";

import { findLinux } from "../tests/support/linux-guest.js";
import { LinuxVms } from "../tests/support/linux-vms.js";
import { killAllVms } from "../tests/support/vm-process.js";

const MIB = 1 << 20;
/** Milliseconds. */
const DOWNTIME_LIMITS = [20, 50, 100, 300];
/** Bytes a second; 0 for no limit. */
const BANDWIDTHS = [0, 32 * MIB];
const KEPT_MIB = 32;
const REWRITTEN_MIB = 8;
const PASSES = 3;

const linux = findLinux();
if (!linux.found) throw new Error(linux.reason);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "ramport-bench-"));
process.once("SIGINT", () => process.exit(130));
process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));

try {
  const startMs = performance.now();
  const guest = await LinuxVms.boot(linux, {
    keptMiB: KEPT_MIB,
    rewrittenMiB: REWRITTEN_MIB,
    pauseSeconds: 0.05,
  });
  await guest.passes(PASSES);
  const bootSeconds = ((performance.now() - startMs) / 1000).toFixed(1);
  const [cpu] = os.cpus();
  console.log(
    `Linux ${guest.report.release ?? "?"} in v86, 128 MiB, guest ${guest.report.startId ?? "?"}: booted in ${bootSeconds} s`,
  );
  console.log(
    `Node ${process.version}, ${os.cpus().length} x ${cpu?.model ?? "?"}, ${new Date().toISOString().slice(0, 10)}\n`,
  );
  console.log(
    "| bandwidth | limit of downtime | downtime | total time | rounds | pages sent | zero pages | passes seen | all well |",
  );
  console.log("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
  let moves = 0;
  for (const bandwidth of BANDWIDTHS) {
    for (const limit of DOWNTIME_LIMITS) {
      const parameters = { "downtime-limit": limit, "max-bandwidth": bandwidth };
      const info = await guest.move(path.join(folder, `move-${++moves}`), { parameters });
      const after = await guest.passes(PASSES);
      const row = [
        bandwidth === 0 ? "no limit" : `${bandwidth / MIB} MiB/s`,
        `${limit} ms`,
        `${info.downtime ?? "?"} ms`,
        `${info["total-time"] ?? "?"} ms`,
        info.ram?.["dirty-sync-count"],
        info.ram?.normal,
        info.ram?.duplicate,
        `${after[0]?.pass ?? "?"} to ${after.at(-1)?.pass ?? "?"}`,
        // A bad, missing or doubled pass would have ended the run.
        "yes",
      ];
      console.log(`| ${row.join(" | ")} |`);
    }
  }
} finally {
  await killAllVms();
}
