import type { Clock } from "../../clock.js";

/** Wakes one loop that waits for something to do. What rings while nobody waits is not lost. */
export class Alarm {
  readonly #clock: Pick<Clock, "sleep">;
  #rung = false;
  #wake: (() => void) | undefined;

  constructor(clock: Pick<Clock, "sleep">) {
    this.#clock = clock;
  }

  ring(): void {
    this.#rung = true;
    this.#wake?.();
  }

  /**
   * Waits until it rings, or rang since the last wait.
   *
   * @param mostMs When to wake in any case; never by itself where it is not given.
   * @returns Whether it rang.
   */
  async wait(mostMs?: number): Promise<boolean> {
    if (!this.#rung) {
      const over = new AbortController();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (mostMs !== undefined) void this.#clock.sleep(mostMs, over.signal).then(resolve);
      });
      over.abort();
      this.#wake = undefined;
    }
    const rang = this.#rung;
    this.#rung = false;
    return rang;
  }
}
