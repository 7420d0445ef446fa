/**
 * Does one operation of ramport's API in a process of its own, so that its processor time and memory are nobody else's.
 * It says when it has loaded everything, waits for the job, and answers with what it cost.
 *
 * @module
 */

import { readFileSync, writeFileSync } from "node:fs";
import fs from "node:fs";

import { parseMigrationUri } from "../src/channels/index.js";
import { QmpClient } from "../src/qmp/index.js";
import { receiveSnapshot, restoreVm, saveVm } from "../src/session/index.js";
import { convertSnapshot, extractBlocks, type SnapshotFormat } from "../src/snapshot/index.js";

/** What to do. */
export type RamportJob =
  | { readonly kind: "save"; readonly qmpPath: string; readonly output: string }
  | { readonly kind: "receive"; readonly uri: string; readonly output: string }
  | {
      readonly kind: "restore";
      readonly qmpPath: string;
      readonly input: string;
      /** Connections for the pages; none when not given. */
      readonly channels?: number;
    }
  | { readonly kind: "extract"; readonly input: string; readonly block: string; readonly output: string }
  | {
      readonly kind: "convert";
      readonly input: string;
      readonly to: SnapshotFormat;
      readonly output: string;
    };

/** What it took. */
export interface RamportOutcome {
  readonly wholeMs: number;
  /** Waiting for `fsync`, which is part of the whole. */
  readonly syncMs: number;
  readonly cpuMs: number;
  readonly peakBytes: number;
}

/** What the process sends: `ready` once, then the outcome. */
export type RamportMessage = { readonly ready: true } | RamportOutcome;

let syncMs = 0;

/** Puts a clock around fsync. ramport calls it through the module object, so that this reaches its calls. */
function measureSync(): void {
  const original = fs.fsync;
  const timed = (fd: number, done: fs.NoParamCallback): void => {
    const start = performance.now();
    original(fd, (error) => {
      syncMs += performance.now() - start;
      done(error);
    });
  };
  fs.fsync = Object.assign(timed, { __promisify__: original.__promisify__ });
}

async function perform(job: RamportJob): Promise<void> {
  if (job.kind === "receive") {
    await receiveSnapshot(parseMigrationUri(job.uri), job.output);
    return;
  }
  if (job.kind === "extract") {
    await extractBlocks(job.input, { block: job.block, path: job.output });
    return;
  }
  if (job.kind === "convert") {
    await convertSnapshot(job.input, job.output, { to: job.to });
    return;
  }
  const qmp = await QmpClient.connect(job.qmpPath);
  try {
    if (job.kind === "save") await saveVm(qmp, job.output, { method: "stream" });
    else {
      const { channels } = job;
      const extra = channels === undefined ? {} : { channels };
      await restoreVm(qmp, job.input, { method: "send", then: "pause", ...extra });
    }
  } finally {
    await qmp.close();
  }
}

/** Resident set in bytes: now, or at its highest. */
function residentBytes(field: "VmRSS" | "VmHWM"): number {
  const status = readFileSync("/proc/self/status", "utf8");
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1024;
}

async function run(job: RamportJob): Promise<RamportOutcome> {
  // Forgets the peak that loading the modules had.
  writeFileSync("/proc/self/clear_refs", "5");
  const before = residentBytes("VmRSS");
  const cpuBefore = process.cpuUsage();
  const start = performance.now();
  await perform(job);
  const wholeMs = performance.now() - start;
  const cpu = process.cpuUsage(cpuBefore);
  return {
    wholeMs,
    syncMs,
    cpuMs: (cpu.user + cpu.system) / 1000,
    peakBytes: residentBytes("VmHWM") - before,
  };
}

measureSync();
process.once("message", (job) => {
  void run(job as RamportJob).then(
    (outcome) => process.send?.(outcome, () => process.disconnect()),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
process.send?.({ ready: true } satisfies RamportMessage);
