import type { FramedPages } from "./page-records.js";
import type { PagePlace } from "./sent-pages.js";
import { ServiceTimes } from "./service-times.js";

/** What a page server did, over all connections. */
export interface PageServerStatistics {
  /** Requests of the destination; some ask for the same page again. */
  readonly requests: number;
  /** Pages that were sent because they were asked for. Those in {@link requests} beside them were on their way already. */
  readonly askedForPages: number;
  /** Host pages that went with a page that was asked for: its neighbours. */
  readonly clusterPages: number;
  /** Bytes of host pages that were sent on request, with their neighbours. */
  readonly askedForBytes: number;
  /** Bytes of host pages that were sent without having been asked for, those of a working set among them. */
  readonly backgroundBytes: number;
  /** Everything written to the channels. */
  readonly sentBytes: number;
  /** From the moment a request was read until the system had its page, in milliseconds, to 9 %. */
  readonly serviceMs: { readonly p50?: number; readonly p99?: number };
  /** Connections that broke and were taken up again. */
  readonly recoveries: number;
}

/** Requests that are kept in order, for a working set: 2 MiB of numbers. */
const MOST_RECORDED = 128 << 10;

/** Gathers {@link PageServerStatistics}. */
export class PostcopyCounters {
  requests = 0;
  askedForPages = 0;
  clusterPages = 0;
  askedForBytes = 0;
  backgroundBytes = 0;
  sentBytes = 0;
  recoveries = 0;
  readonly pages: FramedPages = { normal: 0, zero: 0 };
  readonly serviceTimes = new ServiceTimes();
  readonly #mostRecorded: number;
  readonly #recorded: PagePlace[] = [];

  /** @param mostRecorded How many requests are kept in order. */
  constructor(mostRecorded = MOST_RECORDED) {
    this.#mostRecorded = mostRecorded;
  }

  /** The first requests, in order: numbers of block and host page. */
  get recorded(): readonly PagePlace[] {
    return this.#recorded;
  }

  /** Whether further requests are not kept. */
  get isFull(): boolean {
    return this.#recorded.length >= this.#mostRecorded;
  }

  recordRequest(place: PagePlace): void {
    this.requests += 1;
    if (!this.isFull) this.#recorded.push(place);
  }

  statistics(): PageServerStatistics {
    const { requests, askedForPages, clusterPages, askedForBytes, backgroundBytes } = this;
    const { sentBytes, recoveries } = this;
    const p50 = this.serviceTimes.percentile(0.5);
    const p99 = this.serviceTimes.percentile(0.99);
    const serviceMs = { ...(p50 === undefined ? {} : { p50 }), ...(p99 === undefined ? {} : { p99 }) };
    return {
      requests,
      askedForPages,
      clusterPages,
      askedForBytes,
      backgroundBytes,
      sentBytes,
      serviceMs,
      recoveries,
    };
  }
}
