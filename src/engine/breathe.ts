import { throwIfAborted } from "../errors/index.js";

/** Lets the guest run for a moment, between two slices of a long loop. */
export type Breathe = () => Promise<void>;

/** Makes a {@link Breathe} that gives the event loop a turn, and throws CancelledError once the signal has fired. */
export function eventLoopTurns(signal: AbortSignal | undefined): Breathe {
  return async () => {
    await new Promise((resolve) => setImmediate(resolve));
    throwIfAborted(signal);
  };
}
