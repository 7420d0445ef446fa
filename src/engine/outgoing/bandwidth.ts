import type { Clock } from "../clock.js";
import { SLICE_BYTES } from "./slice.js";

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
  /** The limit that holds, and since when: in this window at most. */
  #limit: number;
  #limitStartMs: number;
  #limitStartBytes = 0;

  /** @param pace Asked anew each time: parameters may change while a migration runs. */
  constructor(clock: Clock, pace: () => PaceParameters) {
    this.#clock = clock;
    this.#pace = pace;
    this.#windowStartMs = clock.now();
    this.#limit = pace()["max-bandwidth"];
    this.#limitStartMs = this.#windowStartMs;
  }

  /** Bytes per second over the last window; 0 before there was one. */
  get bytesPerSecond(): number {
    return this.#bytesPerMs * 1000;
  }

  get pagesPerSecond(): number {
    return this.#pagesPerMs * 1000;
  }

  /** Bytes of pages that may be sent at once: no more than what the limit lets through in a tenth of a second. */
  get sliceBytes(): number {
    const limit = this.#pace()["max-bandwidth"];
    return limit === 0 ? SLICE_BYTES : Math.min(SLICE_BYTES, (limit / 1000) * WINDOW_MS);
  }

  /**
   * Milliseconds until more may be sent; 0 when it may be now. What was sent beyond the limit is waited for before
   * {@link measure} begins another window, which forgets it. What was sent before the limit was changed does not count: after
   * a fast beginning, a low limit would hold back everything for minutes.
   */
  waitMs(transferredBytes: number): number {
    const limit = this.#pace()["max-bandwidth"];
    const nowMs = this.#clock.now();
    if (limit !== this.#limit) {
      this.#limit = limit;
      this.#limitStartMs = nowMs;
      this.#limitStartBytes = transferredBytes;
    }
    if (limit === 0) return 0;
    const dueMs = (transferredBytes - this.#limitStartBytes) / (limit / 1000);
    return Math.max(0, this.#limitStartMs + dueMs - nowMs);
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
    this.#limitStartMs = nowMs;
    this.#limitStartBytes = transferredBytes;
  }

  /** Milliseconds that so many bytes are expected to take with the guest stopped; infinite while nothing is known. */
  expectedMs(bytes: number): number {
    if (bytes === 0) return 0;
    const available = this.#pace()["avail-switchover-bandwidth"];
    return bytes / (available > 0 ? available / 1000 : this.#bytesPerMs);
  }
}
