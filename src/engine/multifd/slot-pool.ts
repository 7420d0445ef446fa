/** Things that are lent and come back, made when they are first needed: at most so many at a time. */
export class SlotPool<T> {
  readonly #make: () => T;
  readonly #most: number;
  readonly #free: T[] = [];
  readonly #waiting: ((slot: T) => void)[] = [];
  #made = 0;

  constructor(most: number, make: () => T) {
    this.#most = most;
    this.#make = make;
  }

  /** One that nobody has; undefined when all are in use. */
  takeNow(): T | undefined {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made === this.#most) return undefined;
    this.#made += 1;
    return this.#make();
  }

  /** One that nobody has; those who ask first get theirs first. */
  async take(): Promise<T> {
    return this.takeNow() ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Brings one back. */
  give(slot: T): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(slot);
    else next(slot);
  }
}
