import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";

/** The kernel counts processor time in hundredths of a second. */
const TICK_MS = 10;
const LONGEST_REASON = 80;

/** What a command took, from its start to its end. */
export interface ToolCost {
  readonly ms: number;
  readonly cpuMs: number;
}

/** A command that ended with another status than 0. */
export class CommandFailed extends Error {}

/**
 * Runs a command whose output nobody reads.
 *
 * @throws CommandFailed with what it complained about.
 */
export function runTool(command: string, args: readonly string[]): Promise<ToolCost> {
  return new Promise((resolve, reject) => {
    const cpuBefore = childrenCpuMs();
    const start = performance.now();
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
    let complaint = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text));
    child.once("error", reject);
    child.once("close", (code) => {
      const ms = performance.now() - start;
      if (code === 0) resolve({ ms, cpuMs: childrenCpuMs() - cpuBefore });
      else reject(new CommandFailed(reasonOf(complaint) ?? `status ${String(code)}`));
    });
  });
}

/** Processor time of the children that have ended: one at a time runs here. */
function childrenCpuMs(): number {
  return cpuTicks("self", [13, 14]) * TICK_MS;
}

/** Processor time of a process so far, with that of the children that it has waited for. */
export function processCpuMs(pid: number): number {
  return cpuTicks(String(pid), [11, 12, 13, 14]) * TICK_MS;
}

function cpuTicks(process: string, wanted: readonly number[]): number {
  const stat = readFileSync(`/proc/${process}/stat`, "utf8");
  // Behind the name, which may hold anything: utime, stime, cutime and cstime are fields 14 to 17 of the line.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return wanted.reduce((sum, field) => sum + Number(fields[field]), 0);
}

/** The first error of a Python program: those behind it come from its handling. A whole description may be in one. */
function reasonOf(complaint: string): string | undefined {
  const lines = complaint.trim().split("\n");
  const reason = lines.find((line) => /^\w*(Error|Exception)\b/.test(line)) ?? lines.at(-1);
  return reason?.slice(0, LONGEST_REASON);
}
