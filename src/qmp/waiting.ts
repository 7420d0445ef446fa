/**
 * Waiting with a limit: one place for abort signals, time limits and the clean-up that both need.
 *
 * @module
 */
import { asError } from "../errors/as-error.js";
import { CancelledError, UsageError } from "../errors/index.js";

/** How long to wait for something, and what may end the wait early. */
export interface WaitLimits {
  /** Firing rejects the wait with CancelledError; what was asked of QEMU is not undone by it. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds; absent or Infinity means no limit. */
  readonly timeoutMs?: number | undefined;
}

/** What ends a wait; only the first call counts. */
export interface Settle<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

// Timers hold the delay in 31 bits: anything longer would fire at once.
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * Waits for what `start` begins.
 *
 * @param limits - when to give up
 * @param onTimeout - makes the error of a wait that took too long
 * @param start - begins the operation; returns what undoes its registrations, called once however the wait ends
 * @throws CancelledError when the signal fires, UsageError for an impossible limit, and whatever `onTimeout` or the
 *   operation give
 */
export function waitWithin<T>(
  limits: WaitLimits,
  onTimeout: (timeoutMs: number) => Error,
  start: (settle: Settle<T>) => () => void,
): Promise<T> {
  const { signal, timeoutMs = Infinity } = limits;
  return new Promise<T>((resolve, reject) => {
    if (timeoutMs !== Infinity && !(timeoutMs >= 0 && timeoutMs <= LONGEST_TIMER_MS)) {
      throw new UsageError(`A time limit of ${timeoutMs} ms is not possible`, {
        hint: `give 0 to ${LONGEST_TIMER_MS}, or leave it out`,
      });
    }
    if (signal?.aborted === true) throw new CancelledError(undefined, signal.reason);
    let timer: NodeJS.Timeout | undefined;
    let undo: (() => void) | undefined;
    let settled = false;
    const finish = (how: () => void): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      undo?.();
      how();
    };
    const onAbort = (): void => finish(() => reject(new CancelledError(undefined, signal?.reason)));
    signal?.addEventListener("abort", onAbort, { once: true });
    if (timeoutMs !== Infinity) {
      timer = setTimeout(() => finish(() => reject(onTimeout(Math.round(timeoutMs)))), timeoutMs);
    }
    try {
      const undoStart = start({
        resolve: (value) => finish(() => resolve(value)),
        reject: (error) => finish(() => reject(error)),
      });
      // `settled` is changed by the closures above, which the type checker cannot see.
      if (settled as boolean) undoStart();
      else undo = undoStart;
    } catch (error) {
      finish(() => reject(asError(error)));
    }
  });
}
