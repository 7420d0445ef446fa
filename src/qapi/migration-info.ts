/**
 * Answer of `query-migrate`. Field names are QEMU's; the fields are those of QEMU 11.1, and older ones leave some out.
 *
 * @module
 */
import type { SocketAddress } from "./channels.js";
import type { MigrationStatus } from "./migration-status.js";

/** Counters of the guest's RAM (QAPI's `MigrationStats`). Pages are of `page-size` bytes. */
export interface RamStats {
  /** Bytes sent so far, headers included. */
  readonly transferred: number;
  /** Bytes still to send. */
  readonly remaining: number;
  /** Bytes of RAM. */
  readonly total: number;
  /** Pages that were all zeros. */
  readonly duplicate?: number;
  /** Pages sent whole. */
  readonly normal?: number;
  /** Bytes in pages sent whole. */
  readonly "normal-bytes"?: number;
  /** Pages dirtied per second by the guest. */
  readonly "dirty-pages-rate"?: number;
  /** Megabits per second; a fraction. */
  readonly mbps?: number;
  /** How often the dirty bitmap was synchronized: the passes over the RAM. */
  readonly "dirty-sync-count"?: number;
  /** How often pages had to be copied though zero-copy was on. */
  readonly "dirty-sync-missed-zero-copy"?: number;
  /** Bytes. */
  readonly "page-size"?: number;
  /** Bytes sent through multifd channels. */
  readonly "multifd-bytes"?: number;
  readonly "pages-per-second"?: number;
  /** Bytes sent while the guest ran, before any postcopy. */
  readonly "precopy-bytes"?: number;
  /** Bytes sent while the guest stood still. */
  readonly "downtime-bytes"?: number;
  /** Bytes sent while the guest ran on the other side. */
  readonly "postcopy-bytes"?: number;
  /** Pages that the other side asked for. */
  readonly "postcopy-requests"?: number;
}

/** Counters of the XBZRLE cache (QAPI's `XBZRLECacheStats`). */
export interface XbzrleCacheStats {
  /** Bytes. */
  readonly "cache-size": number;
  /** Bytes sent as differences. */
  readonly bytes: number;
  /** Pages sent as differences. */
  readonly pages: number;
  /** Pages whose former content was not in the cache. */
  readonly "cache-miss": number;
  /** Misses as a part of the pages looked up; 0 to 1. */
  readonly "cache-miss-rate": number;
  /** How many times smaller the differences are than their pages. */
  readonly "encoding-rate": number;
  /** Pages whose difference was no smaller than the page. */
  readonly overflow: number;
}

/** Counters of the devices passed through with VFIO (QAPI's `VfioStats`). */
export interface VfioStats {
  /** Bytes of device state sent. */
  readonly transferred: number;
}

/** Answer of `query-migrate`. A QEMU that never migrated answers with no field at all. */
export interface MigrationInfo {
  readonly status?: MigrationStatus;
  /** While the migration is active, and when it has completed. */
  readonly ram?: RamStats;
  /** Bytes still to send of all that is migrated, as last estimated. Not yet in QEMU 10.2. */
  readonly remaining?: number;
  readonly vfio?: VfioStats;
  /** With the capability `xbzrle`. */
  readonly "xbzrle-cache"?: XbzrleCacheStats;
  /** Milliseconds since the start, or in all once it has ended. */
  readonly "total-time"?: number;
  /** Milliseconds the guest is expected to stand still; only while active. */
  readonly "expected-downtime"?: number;
  /** Milliseconds the guest stood still; only when completed. */
  readonly downtime?: number;
  /** Milliseconds of preparation before the first page. */
  readonly "setup-time"?: number;
  /** Percent by which the CPUs are slowed down to let the migration converge. */
  readonly "cpu-throttle-percentage"?: number;
  /** QEMU's words on why it failed. */
  readonly "error-desc"?: string;
  /** Reasons why migration is impossible at the moment. */
  readonly "blocked-reasons"?: readonly string[];
  /** Milliseconds that all CPUs waited for pages; with the capability `postcopy-blocktime`, as the next ones. */
  readonly "postcopy-blocktime"?: number;
  /** Milliseconds, one number a CPU. */
  readonly "postcopy-vcpu-blocktime"?: readonly number[];
  /** Nanoseconds that a page asked for took on average. */
  readonly "postcopy-latency"?: number;
  /** Pages asked for by how long they took: entry n counts 2^n to 2^(n+1) microseconds. */
  readonly "postcopy-latency-dist"?: readonly number[];
  /** Nanoseconds on average, one number a CPU. */
  readonly "postcopy-vcpu-latency"?: readonly number[];
  /** Nanoseconds on average, for what is no CPU. */
  readonly "postcopy-non-vcpu-latency"?: number;
  /** Where the destination listens; tells the port that the system chose. */
  readonly "socket-address"?: readonly SocketAddress[];
  /** Microseconds, with the capability `dirty-limit`. */
  readonly "dirty-limit-throttle-time-per-round"?: number;
  /** Microseconds, with the capability `dirty-limit`. */
  readonly "dirty-limit-ring-full-time"?: number;
}
