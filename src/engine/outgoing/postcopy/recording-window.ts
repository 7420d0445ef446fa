import type { Clock } from "../../clock.js";

/** For how long only pages that are asked for go out, so that the requests tell what a guest uses. */
export interface RecordingLimits {
  /** Ends when nothing was asked for during so many milliseconds. */
  readonly quietMs: number;
  /** Ends after so many milliseconds at the latest. */
  readonly mostMs: number;
}

/**
 * The time in which a working set is recorded: from the moment when the devices are loaded until the guest asks for nothing
 * more. Whatever came by itself meanwhile would be missing from it.
 */
export class RecordingWindow {
  readonly #clock: Clock;
  readonly #limits: RecordingLimits | undefined;
  #beganMs: number | undefined;
  #askedMs = -Infinity;
  #isOver: boolean;

  /** @param limits None for a window that is never open. */
  constructor(clock: Clock, limits: RecordingLimits | undefined) {
    this.#clock = clock;
    this.#limits = limits;
    this.#isOver = limits === undefined;
  }

  /** The devices are loaded: the guest runs from now on. Does nothing when it was called before. */
  begin(): void {
    this.#beganMs ??= this.#clock.now();
  }

  /** Something was asked for. */
  asked(): void {
    if (!this.#isOver) this.#askedMs = this.#clock.now();
  }

  /** Ends it early. */
  close(): void {
    this.#isOver = true;
  }

  /** Whether pages go out only when they are asked for, each alone. Once it is not, it never is again. */
  get isOpen(): boolean {
    if (this.#isOver || this.#limits === undefined) return false;
    if (this.#beganMs === undefined) return true;
    const now = this.#clock.now();
    const { quietMs, mostMs } = this.#limits;
    this.#isOver = now - this.#beganMs >= mostMs || now - Math.max(this.#beganMs, this.#askedMs) >= quietMs;
    return !this.#isOver;
  }
}
