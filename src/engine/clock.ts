import { setTimeout as timeout } from "node:timers/promises";

/** Time, as the engine sees it: a test may have a virtual one. */
export interface Clock {
  /** Milliseconds since some fixed moment, with fractions. */
  now(): number;
  /** Waits for so many milliseconds; ends early, without an error, when the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Gives everything else in the process a turn: the guest, channels, signals. */
  turn(): Promise<void>;
}

/** The machine's own clock, and Node's event loop. */
export const systemClock: Clock = {
  now: () => performance.now(),
  sleep: (ms, signal) =>
    timeout(ms, undefined, signal === undefined ? {} : { signal }).catch(() => undefined),
  turn: () => new Promise((resolve) => setImmediate(resolve)),
};
