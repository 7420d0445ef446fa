import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

import type { RamportJob, RamportMessage, RamportOutcome } from "./ramport-process.js";

const PROGRAM = fileURLToPath(new URL("ramport-process.ts", import.meta.url));

/**
 * Does a job in a new process; starting it is not part of what is measured.
 *
 * @param atStart Called when the process has loaded everything, right before the job begins.
 */
export function runRamport(job: RamportJob, atStart: () => void): Promise<RamportOutcome> {
  return new Promise((resolve, reject) => {
    let outcome: RamportOutcome | undefined;
    const child = fork(PROGRAM);
    child.on("message", (message) => {
      const said = message as RamportMessage;
      if ("ready" in said) {
        atStart();
        child.send(job);
      } else outcome = said;
    });
    child.once("error", reject);
    child.once("exit", (code) => {
      if (outcome !== undefined && code === 0) resolve(outcome);
      else reject(new Error(`ramport ended with status ${String(code)} at the job ${job.kind}`));
    });
  });
}
