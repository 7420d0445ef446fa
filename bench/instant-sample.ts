import { parseTimings, parseVerifications, type PassTiming } from "../guests/memory-load-report.js";
import { MachineError } from "../src/errors/index.js";
import type { QemuMachine } from "../tests/support/qemu.js";
import { processCpuMs } from "./run-tool.js";

/** One instant restore. Times are in milliseconds and, but for the last ones, count from the request. */
export interface InstantSample {
  /** Until QEMU says that the guest runs, by the time in its event. */
  readonly resumeMs: number;
  /** Until the guest's first character came out of its serial port: the first that it does. */
  readonly firstOutputMs: number;
  /** Until it has used its whole working set once. */
  readonly firstPassMs: number;
  /** Until all of its memory is there. */
  readonly residentMs: number;
  /** How long that first pass was, by the guest's own clock, and one when all memory is there. */
  readonly passMs: number;
  readonly laterPassMs: number;
  /** First accesses of the first pass that had to wait for their page. */
  readonly waits: AccessTimes;
  /** Processor time until all memory was there. */
  readonly qemuCpuMs: number;
  readonly ramportCpuMs?: number;
  /** Starting the two processes, which no other figure has in it. */
  readonly qemuStartMs: number;
  readonly ramportStartMs?: number;
}

/** Times of accesses, in microseconds. */
export interface AccessTimes {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
}

/** An access to memory that is there takes less, unless the host takes its processor away. */
const WAIT_US = 20;
const LATER_PASSES = 5;
const CALIBRATION_MS = 500;
const LIMIT_MS = 300_000;

/** The time of day with parts of milliseconds: as in QEMU's events. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

/** What a machine's guest shows while and after it is restored. */
export class InstantWatch {
  readonly #machine: QemuMachine;
  #requestMs = NaN;
  #cpuBeforeMs = NaN;
  #isCancelled = false;

  constructor(machine: QemuMachine) {
    this.#machine = machine;
  }

  /** Call it right before the restore is asked for. */
  start(): void {
    this.#cpuBeforeMs = this.#cpuMs();
    this.#requestMs = nowMs();
  }

  /** Ends {@link finish}, with an error. */
  cancel(): void {
    this.#isCancelled = true;
  }

  /** Waits for all that there is to see, and until the guest has found every page right. */
  async finish(hasMigration = true): Promise<Omit<InstantSample, "qemuStartMs">> {
    const machine = this.#machine;
    const firstOutputMs = await this.#when(() => machine.serial.text !== "");
    const firstPassMs = await this.#when(() => machine.passes().length > 0);
    if (hasMigration) await this.#when(() => this.#eventTime("MIGRATION", "completed") !== undefined);
    const qemuCpuMs = this.#cpuMs() - this.#cpuBeforeMs;
    const ticksPerMs = await this.#calibrate();
    const timings = parseTimings(machine.serial.text);
    await this.#verify();
    const [first] = timings;
    if (first === undefined) throw new MachineError("migration-failed", "The guest timed no pass");
    const later = timings.slice(-LATER_PASSES).map(({ ticks }) => ticks / ticksPerMs);
    return {
      resumeMs: (this.#eventTime("RESUME") ?? NaN) - this.#requestMs,
      firstOutputMs,
      firstPassMs,
      residentMs: hasMigration
        ? (this.#eventTime("MIGRATION", "completed") ?? NaN) - this.#requestMs
        : firstOutputMs,
      passMs: first.ticks / ticksPerMs,
      laterPassMs: Math.min(...later),
      waits: waitsOf(first, ticksPerMs / 1000),
      qemuCpuMs,
    };
  }

  /** Polls: what is waited for may come within few milliseconds. */
  async #when(holds: () => boolean): Promise<number> {
    while (!holds()) {
      if (this.#isCancelled || nowMs() - this.#requestMs > LIMIT_MS) {
        throw new MachineError("timeout", "The guest is not restored");
      }
      if (this.#eventTime("MIGRATION", "failed") !== undefined) {
        throw new MachineError("migration-failed", `The load failed: ${this.#machine.stderr}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return nowMs() - this.#requestMs;
  }

  /** Ticks of the guest's time stamp counter in a millisecond. Some more passes over the working set come with it. */
  async #calibrate(): Promise<number> {
    const machine = this.#machine;
    const reported = async (): Promise<{ ms: number; at: PassTiming }> => {
      const before = parseTimings(machine.serial.text).length;
      for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        const at = parseTimings(machine.serial.text).at(before);
        if (at !== undefined) return { ms: performance.now(), at };
      }
    };
    const begin = await reported();
    for (;;) {
      const end = await reported();
      const ms = end.ms - begin.ms;
      if (ms > CALIBRATION_MS && end.at.pass >= begin.at.pass + LATER_PASSES) {
        return (end.at.toTicks - begin.at.toTicks) / ms;
      }
    }
  }

  async #verify(): Promise<void> {
    const machine = this.#machine;
    await machine.qmp("send-key", { keys: [{ type: "qcode", data: "v" }], "hold-time": 1 });
    await this.#when(() => machine.passes().length > 0 && parseVerifications(machine.serial.text).length > 0);
  }

  #eventTime(name: string, status?: string): number | undefined {
    for (const event of this.#machine.events) {
      const { status: is } = (event.data ?? {}) as { status?: string };
      if (event.event !== name || (status !== undefined && is !== status)) continue;
      const { seconds, microseconds } = event.timestamp as { seconds: number; microseconds: number };
      return seconds * 1000 + microseconds / 1000;
    }
    return undefined;
  }

  #cpuMs(): number {
    return this.#machine.pid === undefined ? NaN : processCpuMs(this.#machine.pid);
  }
}

function waitsOf({ accesses }: PassTiming, ticksPerUs: number): AccessTimes {
  const waits = accesses
    .map(({ ticks, count }) => ({ us: ticks / ticksPerUs, count }))
    .filter(({ us }) => us >= WAIT_US);
  const total = waits.reduce((sum, { count }) => sum + count, 0);
  const at = (part: number): number => {
    let seen = 0;
    return waits.find(({ count }) => (seen += count) >= part * total)?.us ?? NaN;
  };
  return { count: total, p50: at(0.5), p99: at(0.99) };
}
