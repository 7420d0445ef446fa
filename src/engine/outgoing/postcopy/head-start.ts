import type { Clock } from "../../clock.js";

/**
 * The time in which a guest that has its working set is left to itself: the fill would take processor time and the disk from
 * it just when it begins. It is over as soon as the guest asks for something: then it was not all of the set.
 */
export class HeadStart {
  readonly #clock: Clock;
  readonly #lengthMs: number;
  #beganMs: number | undefined;
  #isOver: boolean;

  /** @param lengthMs 0 for none. */
  constructor(clock: Clock, lengthMs: number) {
    this.#clock = clock;
    this.#lengthMs = lengthMs;
    this.#isOver = lengthMs === 0;
  }

  /** The devices are loaded: the guest runs from now on. Does nothing when it was called before. */
  begin(): void {
    this.#beganMs ??= this.#clock.now();
  }

  /** Something was asked for. */
  asked(): void {
    this.#isOver = true;
  }

  /** Milliseconds that are left; all of them before it has begun. */
  get leftMs(): number {
    if (this.#isOver) return 0;
    if (this.#beganMs === undefined) return this.#lengthMs;
    const left = Math.max(0, this.#beganMs + this.#lengthMs - this.#clock.now());
    this.#isOver = left === 0;
    return left;
  }
}
