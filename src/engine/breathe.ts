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

/** How long the event loop may wait for work that reads and writes synchronously. */
const TURN_MS = 15;

/** Says when it is time to give the event loop a turn, in a loop that has no slices of its own. */
export class Turns {
  readonly #breathe: Breathe;
  #startMs = performance.now();

  constructor(signal?: AbortSignal) {
    this.#breathe = eventLoopTurns(signal);
  }

  /** Whether the last turn was so long ago that it is time for one. */
  get isDue(): boolean {
    return performance.now() - this.#startMs >= TURN_MS;
  }

  /** @throws CancelledError once the signal has fired. */
  async take(): Promise<void> {
    await this.#breathe();
    this.#startMs = performance.now();
  }
}
