import { setMaxListeners } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

import { assertSocketPathFits, formatMigrationUri, systemError } from "../../channels/index.js";
import type { ProgressListener } from "../../engine/index.js";
import { MachineError, throwIfAborted, UsageError } from "../../errors/index.js";
import { askQemu } from "./ask-qemu.js";
import { loadClone, prepareClone } from "./load-clone.js";
import { type MemoryPlan, planMemory } from "./memory-plan.js";
import { openForClones, type SnapshotForClones } from "./open-for-clones.js";
import { asCancelled, QemuProcess } from "./qemu-process.js";
import { argumentsOfClone, NUMBER_PLACEHOLDER, parseQemuCommandLine } from "./qemu-options.js";
import { publishResidual, writeResidual } from "./residual.js";
import { type Clone, RunningClones } from "./running-clones.js";

/** What both ways of making clones take. */
export interface CloneCommandOptions {
  /** The QEMU and its arguments, as the saved one had them; `{n}` in them becomes the clone's number. */
  readonly argv: readonly string[];
  /** Where the snapshot begins in the file, in bytes. */
  readonly offset?: number;
  readonly signal?: AbortSignal;
  /** Called while the snapshot is checked, which takes long only on file systems without holes. */
  readonly onProgress?: ProgressListener;
  /** Called with a sentence for the user when something noteworthy happens. */
  readonly onMessage?: (message: string) => void;
}

/** How to start clones. */
export interface CloneOptions extends CloneCommandOptions {
  /** How many; default 1. */
  readonly count?: number;
  /** What the guests do afterwards; the default is what the saved one did. */
  readonly then?: "run" | "pause";
  /** Where each clone's QMP socket goes, with `{n}` for its number; the default is a private folder. */
  readonly qmpPath?: string;
}

/** How to prepare clones for somebody else to start. */
export interface PlanCloneOptions extends CloneCommandOptions {
  /** A new file for the residual stream. */
  readonly residualPath: string;
  /** Replace an existing one. */
  readonly replace?: boolean;
}

/** What starts a clone: plain data, ready for JSON. */
export interface PlannedClone {
  /** Command line of a QEMU that is a clone as soon as it runs; placeholders are as they were. */
  readonly argv: readonly string[];
  readonly residualPath: string;
  readonly residualBytes: number;
  readonly machine: string;
  readonly mapped: MemoryPlan["mapped"];
}

/** More would be a mistake. */
const MOST_CLONES = 1024;

/**
 * Starts QEMUs whose memory is the snapshot itself, mapped privately: they share the page cache, and have of their own what
 * they write. What else the machine consists of is loaded from a small stream. The file must stay as it is while they run.
 *
 * The command line is checked against the snapshot before anything is started.
 *
 * @returns When all guests run, or are loaded and paused. They are the caller's: {@link RunningClones.stop} or
 *   {@link RunningClones.release} them.
 * @throws UsageError that lists all that does not fit; FormatError for a damaged snapshot, and for one that is not sealed;
 *   MachineError when a QEMU cannot be started, is older than 8.2, or does not load; CancelledError. No clone is left then.
 */
export async function cloneVms(snapshot: string, options: CloneOptions): Promise<RunningClones> {
  const startMs = performance.now();
  const { count = 1, qmpPath, signal } = options;
  checkCount(count, qmpPath);
  throwIfAborted(signal);
  const runDirectory = makeRunDirectory();
  try {
    const prepared = await prepare(snapshot, options, runDirectory, count);
    try {
      const residualPath = path.join(runDirectory, "residual");
      const residualBytes = await writeResidual(prepared.file, prepared.skeleton, {
        path: residualPath,
        mappedBlocks: namesOf(prepared.plan),
        ...(signal === undefined ? {} : { signal }),
      });
      const prepareMs = performance.now() - startMs;
      const job: CloneJob = { ...prepared, options, runDirectory, residualPath };
      const clones = await startAll(job, count);
      fs.rmSync(residualPath, { force: true });
      return new RunningClones(clones, {
        machine: prepared.skeleton.configuration.machine,
        ramBytes: prepared.skeleton.totalBytes,
        mappedBytes: prepared.plan.mapped.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
        residualBytes,
        runDirectory,
        prepareMs,
        totalTimeMs: performance.now() - startMs,
      });
    } finally {
      prepared.file.close();
    }
  } catch (error) {
    fs.rmSync(runDirectory, { recursive: true, force: true });
    throw asCancelled(error, signal);
  }
}

/**
 * Checks a command line against a snapshot and rewrites it, and writes the residual stream: for an orchestrator that starts
 * its QEMUs itself.
 *
 * @throws As {@link cloneVms} does; UsageError when the residual file exists.
 */
export async function planClone(snapshot: string, options: PlanCloneOptions): Promise<PlannedClone> {
  throwIfAborted(options.signal);
  const directory = makeRunDirectory();
  try {
    const { file, skeleton, plan, expectUnchanged } = await prepare(snapshot, options, directory, 1);
    try {
      const residualPath = path.resolve(options.residualPath);
      const residualBytes = await publishResidual(file, skeleton, {
        path: residualPath,
        replace: options.replace ?? false,
        mappedBlocks: namesOf(plan),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
      expectUnchanged();
      return {
        argv: [
          ...plan.argv,
          "-incoming",
          formatMigrationUri({ kind: "file", path: residualPath, offset: 0 }),
        ],
        residualPath,
        residualBytes,
        machine: skeleton.configuration.machine,
        mapped: plan.mapped,
      };
    } finally {
      file.close();
    }
  } catch (error) {
    throw asCancelled(error, options.signal);
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

interface Prepared extends SnapshotForClones {
  readonly plan: MemoryPlan;
  /** The same for one clone, whose number is in its command line. */
  readonly planFor: (number: number) => MemoryPlan;
}

/** Opens the snapshot, asks the QEMU, and makes the two agree. */
async function prepare(
  snapshot: string,
  options: CloneCommandOptions,
  directory: string,
  count: number,
): Promise<Prepared> {
  const line = parseQemuCommandLine(options.argv);
  // The one waits for a process, the other one for the file.
  const [asked, opened] = await Promise.allSettled([
    askQemu(line.program, directory, options.signal),
    openForClones(snapshot, options),
  ]);
  if (opened.status === "rejected") throw opened.reason;
  try {
    if (asked.status === "rejected") throw asked.reason;
    const { machines } = asked.value;
    const { memory } = opened.value;
    const plan = planMemory(line, memory, machines, count);
    if (plan.problems.length > 0) {
      const problems = plan.problems.join("; ");
      throw new UsageError(`The command line does not fit the snapshot. ${problems}`);
    }
    for (const note of plan.notes) options.onMessage?.(note);
    const planFor = (number: number): MemoryPlan =>
      planMemory(parseQemuCommandLine(argumentsOfClone(options.argv, number)), memory, machines);
    return { ...opened.value, plan, planFor };
  } catch (error) {
    opened.value.file.close();
    throw error;
  }
}

interface CloneJob extends Prepared {
  readonly options: CloneOptions;
  readonly runDirectory: string;
  readonly residualPath: string;
}

/** All of them, or none: when one fails, the others are ended. */
async function startAll(job: CloneJob, count: number): Promise<Clone[]> {
  const failed = new AbortController();
  const { signal } = job.options;
  const either = signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]);
  // Each clone listens for it.
  setMaxListeners(0, either);
  const processes: QemuProcess[] = [];
  let first: { readonly error: unknown } | undefined;
  const starting = Array.from({ length: count }, async (_, index) => {
    try {
      return await startOne(job, index + 1, either, (process) => processes.push(process));
    } catch (error) {
      first ??= { error: count === 1 ? error : withNumber(error, index + 1) };
      failed.abort();
      return undefined;
    }
  });
  const clones = (await Promise.all(starting)).filter((clone) => clone !== undefined);
  if (first === undefined && signal?.aborted !== true) return clones;
  await Promise.all(processes.map((process) => process.kill()));
  throwIfAborted(signal);
  throw first?.error;
}

async function startOne(
  job: CloneJob,
  number: number,
  signal: AbortSignal,
  onStart: (process: QemuProcess) => void,
): Promise<Clone> {
  const { runDirectory, residualPath, memory, options } = job;
  const startMs = performance.now();
  const { argv, mapped, mainBackend } = job.planFor(number);
  const qmpPath = socketPathOf(job, number);
  const logPath = path.join(runDirectory, `clone-${number}.log`);
  throwIfAborted(signal);
  const process = await QemuProcess.start([...argv, ...monitorArguments(qmpPath)], logPath);
  onStart(process);
  const then = options.then === undefined ? {} : { then: options.then };
  const residual = { uri: { kind: "file", path: residualPath, offset: 0 } } as const;
  try {
    const qmp = await process.connect(signal);
    const waiting = { qmp, mapped, snapshotPath: memory.path };
    await prepareClone(mainBackend === undefined ? waiting : { ...waiting, mainBackend }, then);
    // It has opened the file by now, and nothing runs in it yet.
    job.expectUnchanged();
    const processStartMs = performance.now() - startMs;
    const { guest, restoreMs } = await loadClone(qmp, residual, { ...then, signal });
    const facts = { number, pid: process.pid, qmpPath, logPath, guest, processStartMs, restoreMs };
    return { facts, process };
  } catch (error) {
    throw withWords(await process.reasonFor(error), process);
  }
}

/** A clone waits for its residual stream, and listens for its user. */
function monitorArguments(qmpPath: string): string[] {
  const socket = `unix:${qmpPath.replaceAll(",", ",,")},server=on,wait=off`;
  return ["-incoming", "defer", "-qmp", socket];
}

function socketPathOf({ options, runDirectory }: CloneJob, number: number): string {
  const { qmpPath } = options;
  if (qmpPath === undefined) return path.join(runDirectory, `clone-${number}.qmp`);
  return path.resolve(qmpPath.replaceAll(NUMBER_PLACEHOLDER, String(number)));
}

/** A load that failed has its reason in what QEMU says on standard error, more often than in its answer. */
function withWords(error: unknown, process: QemuProcess): unknown {
  if (!(error instanceof MachineError) || error.code !== "migration-failed") return error;
  const words = process.lastWords();
  return new MachineError(
    error.code,
    words === "" ? error.message : `${error.message} (${words})`,
    { hint: "often the devices differ from the saved machine's" },
    error,
  );
}

function withNumber(error: unknown, number: number): unknown {
  if (!(error instanceof MachineError)) return error;
  return new MachineError(error.code, `Clone ${number}: ${error.message}`, error.data, error);
}

function namesOf({ mapped }: MemoryPlan): ReadonlySet<string> {
  return new Set(mapped.map(({ block }) => block));
}

function checkCount(count: number, qmpPath: string | undefined): void {
  if (!Number.isInteger(count) || count < 1 || count > MOST_CLONES) {
    throw new UsageError("The number of clones is impossible", {
      expected: `1 to ${MOST_CLONES}`,
      actual: String(count),
    });
  }
  if (qmpPath === undefined) return;
  if (count > 1 && !qmpPath.includes(NUMBER_PLACEHOLDER)) {
    throw new UsageError("All clones would have the same QMP socket", {
      path: qmpPath,
      hint: `put ${NUMBER_PLACEHOLDER}, the clone's number, into its path`,
    });
  }
  assertSocketPathFits(path.resolve(qmpPath.replaceAll(NUMBER_PLACEHOLDER, String(count))));
}

/** A folder for sockets, logs and the residual stream, for its owner alone. */
function makeRunDirectory(): string {
  const prefix = path.resolve(os.tmpdir(), "ramport-clone-");
  assertSocketPathFits(
    `${prefix}XXXXXX/clone-${MOST_CLONES}.qmp`,
    "let TMPDIR name a folder with a shorter path",
  );
  try {
    return fs.mkdtempSync(prefix);
  } catch (cause) {
    throw systemError("Making a folder for clones", prefix, cause);
  }
}
