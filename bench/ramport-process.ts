/**
 * Does one operation of ramport's API in a process of its own, so that its processor time and memory are nobody else's.
 * It is told the job, says when it has loaded everything and is connected, waits for the word, and answers with what it cost.
 *
 * @module
 */

import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import fs from "node:fs";

import { parseMigrationUri, ReadableFile } from "../src/channels/index.js";
import { UsageError } from "../src/errors/index.js";
import { QmpClient } from "../src/qmp/index.js";
import { receiveSnapshot, restoreVm, restoreVmLazily, saveVm } from "../src/session/index.js";
import { dataRanges } from "../src/snapshot/data-ranges.js";
import {
  convertSnapshot,
  copySnapshot,
  diffSnapshots,
  extractBlocks,
  openSnapshot,
  type SnapshotFormat,
  verifySnapshot,
} from "../src/snapshot/index.js";

/** What to do. */
export type RamportJob =
  | { readonly kind: "save"; readonly qmpPath: string; readonly output: string; readonly channels?: number }
  | { readonly kind: "receive"; readonly uri: string; readonly output: string }
  | { readonly kind: "restore"; readonly qmpPath: string; readonly input: string; readonly channels?: number }
  | {
      readonly kind: "lazy";
      readonly qmpPath: string;
      readonly input: string;
      readonly prefetch: "before" | "after" | "off";
      readonly workingSet: string;
    }
  /** No operation of ramport's: the same file's data, read in pieces of 1 MiB and not looked at. */
  | { readonly kind: "read"; readonly input: string }
  | { readonly kind: "verify"; readonly input: string }
  | { readonly kind: "diff"; readonly input: string; readonly other: string }
  | { readonly kind: "copy"; readonly input: string; readonly output: string; readonly verify: boolean }
  | { readonly kind: "extract"; readonly input: string; readonly block: string; readonly output: string }
  | {
      readonly kind: "convert";
      readonly input: string;
      readonly to: SnapshotFormat;
      readonly output: string;
    };

type QmpJob = Extract<RamportJob, { readonly qmpPath: string }>;

/** What it took. */
export interface RamportOutcome {
  readonly wholeMs: number;
  /** Waiting for `fsync`, which is part of the whole. */
  readonly syncMs: number;
  readonly cpuMs: number;
  readonly peakBytes: number;
}

/** What the process sends: `ready` once, then the outcome, or why ramport does not do such a job. */
export type RamportMessage = { readonly ready: true } | { readonly refused: string } | RamportOutcome;

const PIECE_BYTES = 1 << 20;

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

async function perform(job: Exclude<RamportJob, QmpJob>): Promise<unknown> {
  switch (job.kind) {
    case "receive":
      return receiveSnapshot(parseMigrationUri(job.uri), job.output);
    case "read":
      readData(job.input);
      return undefined;
    case "verify":
      return verifySnapshot(job.input);
    case "diff":
      return diff(job.input, job.other);
    case "copy":
      return copySnapshot(job.input, job.output, { verify: job.verify });
    case "extract":
      return extractBlocks(job.input, { block: job.block, path: job.output });
    case "convert":
      return convertSnapshot(job.input, job.output, { to: job.to });
  }
}

async function throughQmp(job: QmpJob, qmp: QmpClient): Promise<void> {
  try {
    switch (job.kind) {
      case "save":
        await saveVm(qmp, job.output, { method: "stream", ...channelsOf(job) });
        break;
      case "restore":
        await restoreVm(qmp, job.input, { method: "send", then: "pause", ...channelsOf(job) });
        break;
      case "lazy": {
        const { qmpPath, input, prefetch, workingSet } = job;
        await restoreVmLazily(qmp, input, { then: "run", qmpPath, prefetch, workingSet });
      }
    }
  } finally {
    await qmp.close();
  }
}

function channelsOf({ channels }: { readonly channels?: number }): { channels?: number } {
  return channels === undefined ? {} : { channels };
}

function readData(input: string): void {
  const file = ReadableFile.open(input);
  const piece = new Uint8Array(PIECE_BYTES);
  for (const { start, end } of dataRanges(file, 0, file.sizeBytes)) {
    for (let at = start; at < end; at += PIECE_BYTES) {
      fs.readSync(file.fd, piece, 0, Math.min(PIECE_BYTES, end - at), at);
    }
  }
  file.close();
}

async function diff(input: string, other: string): Promise<void> {
  const before = await openSnapshot(input);
  const after = await openSnapshot(other);
  for await (const event of diffSnapshots(before, after)) {
    if (event.kind === "summary" && !event.summary.same) throw new Error("two files of one guest differ");
  }
  before.close();
  after.close();
}

/** Resident set in bytes: now, or at its highest. */
function residentBytes(field: "VmRSS" | "VmHWM"): number {
  const status = readFileSync("/proc/self/status", "utf8");
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1024;
}

async function measure(perform: () => Promise<unknown>): Promise<RamportOutcome> {
  // Forgets the peak that loading the modules had.
  writeFileSync("/proc/self/clear_refs", "5");
  const before = residentBytes("VmRSS");
  const cpuBefore = process.cpuUsage();
  const start = performance.now();
  await perform();
  const wholeMs = performance.now() - start;
  const cpu = process.cpuUsage(cpuBefore);
  return {
    wholeMs,
    syncMs,
    cpuMs: (cpu.user + cpu.system) / 1000,
    peakBytes: residentBytes("VmHWM") - before,
  };
}

function answer(message: RamportMessage): void {
  process.send?.(message, () => process.disconnect());
}

async function work(job: RamportJob): Promise<RamportOutcome> {
  const ready = await prepare(job);
  const begin = once(process, "message");
  process.send?.({ ready: true } satisfies RamportMessage);
  await begin;
  return measure(ready);
}

/** Connects, where there is a QEMU. */
async function prepare(job: RamportJob): Promise<() => Promise<unknown>> {
  if (!("qmpPath" in job)) return () => perform(job);
  const qmp = await QmpClient.connect(job.qmpPath);
  return () => throughQmp(job, qmp);
}

measureSync();
process.once("message", (job) => {
  void work(job as RamportJob).then(answer, (error: unknown) => {
    if (error instanceof UsageError) {
      answer({ refused: error.message });
      return;
    }
    console.error(error);
    process.exit(1);
  });
});
