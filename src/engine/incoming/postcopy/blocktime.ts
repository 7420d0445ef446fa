import type { PostcopyBlocktime } from "../../postcopy/postcopy-host.js";

/** `BLOCKTIME_LATENCY_BUCKET_N` of QEMU: the last one has what took 8 seconds and more. */
const LATENCY_BUCKETS = 24;

interface Wait {
  readonly page: number;
  readonly sinceMs: number;
}

/**
 * How long processors wait for pages: what QEMU counts with `postcopy-blocktime`. A processor waits for one page at a time.
 */
export class BlocktimeCounter {
  readonly #now: () => number;
  /** By processor. */
  readonly #waits = new Map<number, Wait>();
  readonly #processorMs: number[] = [];
  /** Waits that are over, by processor. */
  readonly #processorWaits: number[] = [];
  readonly #distribution = new Array<number>(LATENCY_BUCKETS).fill(0);
  #allBlockedMs = 0;
  #allBlockedSince: number | undefined;
  #waitedMs = 0;
  #waitCount = 0;

  /**
   * @param processors How many the guest has.
   * @param now A clock that never goes back, in milliseconds and fractions of them.
   */
  constructor(processors: number, now: () => number) {
    this.#processorMs = new Array<number>(processors).fill(0);
    this.#processorWaits = new Array<number>(processors).fill(0);
    this.#now = now;
  }

  /** A processor begins to wait for a page. One that waits already has found the page's neighbour missing, or asks again. */
  begin(processor: number, page: number): void {
    if (processor >= this.#processorMs.length || this.#waits.get(processor)?.page === page) return;
    const sinceMs = this.#now();
    this.#endWait(processor, sinceMs);
    this.#waits.set(processor, { page, sinceMs });
    if (this.#waits.size === this.#processorMs.length) this.#allBlockedSince ??= sinceMs;
  }

  /** A page is there. */
  end(page: number): void {
    let now: number | undefined;
    for (const [processor, wait] of this.#waits) {
      if (wait.page === page) this.#endWait(processor, (now ??= this.#now()));
    }
  }

  /** Up to now; waits that go on are not in it. */
  get counts(): PostcopyBlocktime {
    return {
      allBlockedMs: this.#allBlockedMs,
      processorMs: [...this.#processorMs],
      latencyNs: averageNs(this.#waitedMs, this.#waitCount),
      processorLatencyNs: this.#processorMs.map((ms, processor) =>
        averageNs(ms, this.#processorWaits[processor] ?? 0),
      ),
      latencyDistribution: [...this.#distribution],
    };
  }

  #endWait(processor: number, now: number): void {
    const wait = this.#waits.get(processor);
    if (wait === undefined) return;
    this.#waits.delete(processor);
    const waitedMs = now - wait.sinceMs;
    this.#processorMs[processor] = (this.#processorMs[processor] ?? 0) + waitedMs;
    this.#processorWaits[processor] = (this.#processorWaits[processor] ?? 0) + 1;
    this.#waitedMs += waitedMs;
    this.#waitCount += 1;
    const bucket = Math.min(LATENCY_BUCKETS - 1, Math.floor(Math.log2(Math.max(1, waitedMs * 1000))));
    this.#distribution[bucket] = (this.#distribution[bucket] ?? 0) + 1;
    if (this.#allBlockedSince === undefined) return;
    this.#allBlockedMs += now - this.#allBlockedSince;
    this.#allBlockedSince = undefined;
  }
}

function averageNs(totalMs: number, count: number): number {
  return count === 0 ? 0 : Math.round((totalMs / count) * 1e6);
}
