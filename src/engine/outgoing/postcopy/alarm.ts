/** Wakes one loop that waits for something to do. What rings while nobody waits is not lost. */
export class Alarm {
  #rung = false;
  #wake: (() => void) | undefined;

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
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (mostMs !== undefined) timer = setTimeout(resolve, mostMs);
      });
      clearTimeout(timer);
      this.#wake = undefined;
    }
    const rang = this.#rung;
    this.#rung = false;
    return rang;
  }
}
