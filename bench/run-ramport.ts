import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

import type { RamportJob, RamportMessage, RamportOutcome } from "./ramport-process.js";

const PROGRAM = fileURLToPath(new URL("ramport-process.ts", import.meta.url));

/** This ramport does not do what a row asks of it; the message says why. */
export class Refused extends Error {}

/**
 * Does a job in a new process; starting it is not part of what is measured.
 *
 * @param atStart Called when the process has loaded everything and is connected, right before the job begins.
 * @throws Refused when ramport says that it does not do such a job.
 */
export function runRamport(job: RamportJob, atStart?: () => void): Promise<RamportOutcome> {
  return new Promise((resolve, reject) => {
    let outcome: RamportOutcome | undefined;
    let refused: string | undefined;
    const child = fork(PROGRAM);
    child.send(job);
    child.on("message", (message) => {
      const said = message as RamportMessage;
      if ("ready" in said) {
        atStart?.();
        child.send("begin");
      } else if ("refused" in said) refused = said.refused;
      else outcome = said;
    });
    child.once("error", reject);
    child.once("exit", (code) => {
      if (outcome !== undefined && code === 0) resolve(outcome);
      else if (refused !== undefined) reject(new Refused(refused));
      else reject(new Error(`ramport ended with status ${String(code)} at the job ${job.kind}`));
    });
  });
}

/** Turns a refusal into the reason why a row has no figures. */
export async function unlessRefused<T>(measured: Promise<T>): Promise<T | string> {
  try {
    return await measured;
  } catch (error) {
    if (error instanceof Refused) return error.message;
    throw error;
  }
}
