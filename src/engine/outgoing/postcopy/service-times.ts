/** Eight buckets for each doubling, from a microsecond to over an hour: 9 % wide. */
const BUCKETS_PER_DOUBLING = 8;
const BUCKETS = 32 * BUCKETS_PER_DOUBLING;

/** How long things took, in buckets: percentiles in bounded memory. */
export class ServiceTimes {
  readonly #counts = new Float64Array(BUCKETS);
  #total = 0;

  get count(): number {
    return this.#total;
  }

  add(ms: number): void {
    const bucket = Math.floor(Math.log2(Math.max(1, ms * 1000)) * BUCKETS_PER_DOUBLING);
    const index = Math.min(bucket, BUCKETS - 1);
    this.#counts[index] = (this.#counts[index] ?? 0) + 1;
    this.#total += 1;
  }

  /**
   * The time that a share of all stayed below, to 9 %.
   *
   * @param share 0.5 for the median.
   * @returns Milliseconds; undefined when nothing was measured.
   */
  percentile(share: number): number | undefined {
    if (this.#total === 0) return undefined;
    let left = this.#total * share;
    for (const [bucket, count] of this.#counts.entries()) {
      left -= count;
      if (left <= 0) return 2 ** ((bucket + 1) / BUCKETS_PER_DOUBLING) / 1000;
    }
    return undefined;
  }
}
