import fs from "node:fs";
import process from "node:process";

import { errnoCode } from "../channels/index.js";

/** What is known of a process. */
export interface ProcessState {
  /** One that has ended, and that its parent has not taken note of, does not live. */
  readonly isAlive: boolean;
  /** When it began, in clock ticks since the machine did; absent where the system does not say. */
  readonly startTime?: string;
}

/** Looks for a process of this machine. */
export function processState(pid: number): ProcessState {
  const fields = statFields(pid);
  if (fields !== undefined) {
    const [state = "", startTime = ""] = [fields[0], fields[START_TIME]];
    return { isAlive: !ENDED.has(state), startTime };
  }
  try {
    process.kill(pid, 0);
    return { isAlive: true };
  } catch (error) {
    return { isAlive: errnoCode(error) === "EPERM" };
  }
}

/** When this process began. */
export function ownStartTime(): string | undefined {
  return processState(process.pid).startTime;
}

/** Zombies, and what is about to go. */
const ENDED: ReadonlySet<string> = new Set(["Z", "X", "x"]);
/** Field 22 of proc(5), counted from the state: that is the third one. */
const START_TIME = 19;

/** /proc/PID/stat from the state on: the name before it may hold anything. */
function statFields(pid: number): readonly string[] | undefined {
  try {
    const text = fs.readFileSync(`/proc/${pid}/stat`, "latin1");
    return text.slice(text.lastIndexOf(")") + 2).split(" ");
  } catch {
    return undefined;
  }
}
