import type { Clock } from "../../clock.js";
import type { BlockRun, PagePlace, SentPages } from "./sent-pages.js";

/** Chooses what goes out when nothing is asked for: first the runs that somebody knows to be wanted, then all the rest. */
export class BackgroundFill {
  readonly #sent: SentPages;
  #first: readonly BlockRun[] = [];
  readonly #hostPageSizes: readonly number[];
  #nextFirst = 0;
  #cursor: PagePlace = { block: 0, page: 0 };

  /** @param hostPageSizes Of each block, in bytes. */
  constructor(sent: SentPages, hostPageSizes: readonly number[]) {
    this.#sent = sent;
    this.#hostPageSizes = hostPageSizes;
  }

  /** Prefers runs, in the order in which they are to go out; what of them was sent is passed over. */
  prefer(runs: readonly BlockRun[]): void {
    this.#first = runs;
    this.#nextFirst = 0;
  }

  /** Goes on behind a place: what lies there is likely to be asked for next. */
  moveTo(place: PagePlace): void {
    this.#cursor = place;
  }

  /** The next run of unsent pages among the preferred ones, zero pages too; undefined when they have all been sent. */
  nextFirst(mostBytes: number): BlockRun | undefined {
    for (; this.#nextFirst < this.#first.length; this.#nextFirst++) {
      const run = this.#first[this.#nextFirst];
      if (run === undefined) break;
      const [unsent] = this.#sent.unsentIn(run);
      if (unsent === undefined) continue;
      const { block, start, end } = unsent;
      return {
        block,
        start,
        end: Math.min(end, start + pagesIn(mostBytes, this.#hostPageSizes[block] ?? 1)),
      };
    }
    return undefined;
  }

  /** The next run of unsent pages with content; undefined when there is none left. */
  next(mostBytes: number): BlockRun | undefined {
    const run = this.#sent.nextPending(this.#cursor, (hostPageSize) => pagesIn(mostBytes, hostPageSize));
    // Who takes it goes on behind it: all that was sent is not to be passed over each time.
    if (run !== undefined) this.#cursor = { block: run.block, page: run.start };
    return run;
  }
}

/** Whole pages, at least one. */
export function pagesIn(bytes: number, pageSize: number): number {
  return Math.max(1, Math.floor(bytes / pageSize));
}

/** Holds what nobody asked for to a number of bytes a second. A limit that changes holds from then on. */
export class FillRate {
  readonly #clock: Clock;
  readonly #limit: () => number;
  /** What was sent and not yet allowed, as of a moment. */
  #aheadBytes = 0;
  #asOfMs = 0;

  /** @param limit Bytes per second, asked anew each time; 0 for none. */
  constructor(clock: Clock, limit: () => number) {
    this.#clock = clock;
    this.#limit = limit;
  }

  /** Milliseconds until more may be sent; 0 when it may be now. */
  waitMs(): number {
    const limit = this.#catchUp();
    return limit === 0 ? 0 : (this.#aheadBytes / limit) * 1000;
  }

  sent(bytes: number): void {
    if (this.#catchUp() > 0) this.#aheadBytes += bytes;
  }

  /** @returns The limit. */
  #catchUp(): number {
    const limit = this.#limit();
    const nowMs = this.#clock.now();
    const allowedBytes = limit === 0 ? Infinity : ((nowMs - this.#asOfMs) / 1000) * limit;
    this.#aheadBytes = Math.max(0, this.#aheadBytes - allowedBytes);
    this.#asOfMs = nowMs;
    return limit;
  }
}
