import type { Clock } from "../clock.js";

/** QEMU's parameters of auto-converge, in percent. */
export interface ThrottleParameters {
  readonly "throttle-trigger-threshold": number;
  readonly "cpu-throttle-initial": number;
  readonly "cpu-throttle-increment": number;
  readonly "cpu-throttle-tailslow": boolean;
  readonly "max-cpu-throttle": number;
}

/** QEMU looks at periods of at least so many milliseconds. */
const PERIOD_MS = 1000;
/** So many bad periods in a row slow the guest down. */
const BAD_PERIODS = 2;

/**
 * Decides how much the guest is slowed down so that a migration ends, by the rules of QEMU's `migration_trigger_throttle`
 * and `mig_throttle_guest_down`: a guest that dirties more than a part of what was sent, twice in a row, gets less time.
 */
export class AutoConverge {
  /** Percent of its time that the guest does not get; 0 while it is left alone. */
  percentage = 0;
  readonly #clock: Clock;
  readonly #parameters: () => ThrottleParameters;
  #periodStartMs: number;
  #periodStartBytes = 0;
  #dirtiedBytes = 0;
  #badPeriods = 0;

  constructor(clock: Clock, parameters: () => ThrottleParameters) {
    this.#clock = clock;
    this.#parameters = parameters;
    this.#periodStartMs = clock.now();
  }

  /**
   * Hears of a synchronized dirty bitmap.
   *
   * @param dirtiedBytes What the guest has dirtied since the last one.
   * @returns Whether {@link percentage} has changed.
   */
  observe(dirtiedBytes: number, transferredBytes: number): boolean {
    this.#dirtiedBytes += dirtiedBytes;
    const nowMs = this.#clock.now();
    if (nowMs - this.#periodStartMs < PERIOD_MS) return false;
    const sent = transferredBytes - this.#periodStartBytes;
    const dirtied = this.#dirtiedBytes;
    this.#periodStartMs = nowMs;
    this.#periodStartBytes = transferredBytes;
    this.#dirtiedBytes = 0;
    const threshold = (sent * this.#parameters()["throttle-trigger-threshold"]) / 100;
    if (dirtied <= threshold) return false;
    this.#badPeriods += 1;
    if (this.#badPeriods < BAD_PERIODS) return false;
    this.#badPeriods = 0;
    const before = this.percentage;
    this.percentage = Math.min(this.#next(dirtied, threshold), this.#parameters()["max-cpu-throttle"]);
    return this.percentage !== before;
  }

  #next(dirtied: number, threshold: number): number {
    const parameters = this.#parameters();
    const now = this.percentage;
    if (now === 0) return parameters["cpu-throttle-initial"];
    const increment = parameters["cpu-throttle-increment"];
    if (!parameters["cpu-throttle-tailslow"]) return now + increment;
    // No more than what would bring the dirtying down to the threshold.
    const share = 100 - now;
    const idealShare = (threshold / dirtied) * share;
    return now + Math.max(0, Math.min(Math.round(share - idealShare), increment));
  }
}
