import type { Clock } from "../clock.js";

/** What of QEMU's parameters decides how fast a migration goes and when it ends; may change while it runs. */
export interface PaceParameters {
  /** Bytes per second; 0 for no limit. */
  readonly "max-bandwidth": number;
  /** Bytes per second that the last part is expected to have; 0 for what is measured. */
  readonly "avail-switchover-bandwidth": number;
  /** Milliseconds that the guest may stand still. */
  readonly "downtime-limit": number;
}

/** `BUFFER_DELAY` of QEMU's `migration/migration.c`: the limit holds, and speed is measured, over so many milliseconds. */
const WINDOW_MS = 100;

/** Measures how fast bytes go, holds them to a limit, and says how much may be left for the switch-over. */
export class Bandwidth {
  readonly #clock: Clock;
  readonly #pace: () => PaceParameters;
  #windowStartMs: number;
  #windowStartBytes = 0;
  #windowStartPages = 0;
  #bytesPerMs = 0;
  #pagesPerMs = 0;

  /** @param pace Asked anew each time: parameters may change while a migration runs. */
  constructor(clock: Clock, pace: () => PaceParameters) {
    this.#clock = clock;
    this.#pace = pace;
    this.#windowStartMs = clock.now();
  }

  /** Bytes per second over the last window; 0 before there was one. */
  get bytesPerSecond(): number {
    return this.#bytesPerMs * 1000;
  }

  get pagesPerSecond(): number {
    return this.#pagesPerMs * 1000;
  }

  /** Milliseconds until more may be sent; 0 when it may be now. */
  waitMs(transferredBytes: number): number {
    const limit = this.#pace()["max-bandwidth"];
    if (limit === 0) return 0;
    const inWindow = transferredBytes - this.#windowStartBytes;
    if (inWindow < (limit / 1000) * WINDOW_MS) return 0;
    return Math.max(0, this.#windowStartMs + WINDOW_MS - this.#clock.now());
  }

  /** Closes the window when it is full; `early` closes it whenever anything was sent in it. */
  measure(transferredBytes: number, pages: number, early = false): void {
    const nowMs = this.#clock.now();
    const elapsedMs = nowMs - this.#windowStartMs;
    const bytes = transferredBytes - this.#windowStartBytes;
    if (elapsedMs < WINDOW_MS && !(early && this.#bytesPerMs === 0 && bytes > 0 && elapsedMs > 0)) return;
    this.#bytesPerMs = bytes / elapsedMs;
    this.#pagesPerMs = (pages - this.#windowStartPages) / elapsedMs;
    this.#windowStartMs = nowMs;
    this.#windowStartBytes = transferredBytes;
    this.#windowStartPages = pages;
  }

  /** Milliseconds that so many bytes are expected to take with the guest stopped; infinite while nothing is known. */
  expectedMs(bytes: number): number {
    if (bytes === 0) return 0;
    const available = this.#pace()["avail-switchover-bandwidth"];
    return bytes / (available > 0 ? available / 1000 : this.#bytesPerMs);
  }
}
