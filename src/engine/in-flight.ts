/**
 * Operations that run beside each other, of which there are at most so many at a time: how many is what `channels` means
 * where a file takes the place of connections. The first that fails is remembered, and nothing is started after it.
 */
export class InFlight {
  readonly #most: number;
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;

  /** @param most At a time; 1 or more. */
  constructor(most: number) {
    this.#most = most;
  }

  /** How many run now. */
  get count(): number {
    return this.#running.size;
  }

  /**
   * Starts an operation once there is room for it.
   *
   * @returns When it was started.
   * @throws What an operation before it failed with.
   */
  async start(operation: () => Promise<unknown>): Promise<void> {
    while (this.#running.size >= this.#most) await Promise.race(this.#running);
    this.#check();
    this.#begin(operation);
  }

  /**
   * Waits until none runs.
   *
   * @throws What the first that failed did: also one that was started and ended long ago.
   */
  async drain(): Promise<void> {
    await Promise.all(this.#running);
    this.#check();
  }

  #begin(operation: () => Promise<unknown>): void {
    const running = operation().then(
      () => {
        this.#running.delete(running);
      },
      (error: unknown) => {
        this.#running.delete(running);
        this.#failure ??= { error };
      },
    );
    this.#running.add(running);
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}
