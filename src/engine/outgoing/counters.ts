import type { KnownMigrationStatus, MigrationInfo, RamStats, XbzrleCacheStats } from "../../qapi/index.js";
import { isInPostcopy } from "../migration-states.js";
import type { PageCounts } from "../mapped-ram/placed-pages.js";

/** What an outgoing migration has counted; times are milliseconds of its clock. */
export interface OutgoingCounters {
  readonly startMs: number;
  setupMs: number | undefined;
  /** When the guest was stopped for the switch-over. */
  stopMs: number | undefined;
  /** When the package had been sent with which the guest becomes the destination's, in postcopy. */
  handedOverMs: number | undefined;
  endMs: number | undefined;
  /** `dirty-sync-count`. */
  rounds: number;
  dirtyPagesPerSecond: number;
  /** Bytes that had been sent when the guest was stopped. */
  precopyBytes: number | undefined;
  /** Bytes that had been sent when it was handed over. */
  handedOverBytes: number | undefined;
  /** `expected-downtime`; the limit until there is something to expect it from. */
  expectedDowntimeMs: number;
  /** Milliseconds that the last search for changed pages took. */
  syncMs: number;
}

/** What is read at the moment of asking. */
export interface OutgoingReadings {
  readonly status: KnownMigrationStatus;
  readonly nowMs: number;
  readonly transferredBytes: number;
  readonly remainingBytes: number;
  readonly totalBytes: number;
  readonly pages: PageCounts;
  readonly pageSize: number;
  readonly bytesPerSecond: number;
  readonly pagesPerSecond: number;
  readonly throttlePercentage: number;
  readonly xbzrle: XbzrleCacheStats | undefined;
  /** Requests of a destination that runs the guest already. */
  readonly postcopyRequests: number;
  readonly error: string | undefined;
}

/** The answer to `query-migrate`: which fields there are depends on the status, as in QEMU's `fill_source_migration_info`. */
export function outgoingInfo(counters: OutgoingCounters, readings: OutgoingReadings): MigrationInfo {
  const { status, nowMs, error, throttlePercentage, xbzrle } = readings;
  if (status === "failed" || status === "failing") {
    return { status, ...(error === undefined ? {} : { "error-desc": error }) };
  }
  // That somebody cancelled it is no error.
  if (status === "setup" || status === "cancelled") return { status };
  const { startMs, endMs, setupMs, stopMs, handedOverMs, expectedDowntimeMs } = counters;
  const ended = status === "completed";
  const stoodStillUntilMs = handedOverMs ?? (ended ? endMs : undefined);
  return {
    status,
    ram: ramStats(counters, readings),
    ...(xbzrle === undefined ? {} : { "xbzrle-cache": xbzrle }),
    "total-time": whole((endMs ?? nowMs) - startMs),
    ...(setupMs === undefined ? {} : { "setup-time": whole(setupMs) }),
    ...(stoodStillUntilMs === undefined
      ? { "expected-downtime": whole(expectedDowntimeMs) }
      : { downtime: stopMs === undefined ? 0 : whole(stoodStillUntilMs - stopMs) }),
    ...(isInPostcopy(status) && error !== undefined ? { "error-desc": error } : {}),
    ...(ended ? {} : { remaining: readings.remainingBytes }),
    ...(throttlePercentage > 0 && !ended ? { "cpu-throttle-percentage": throttlePercentage } : {}),
  };
}

function ramStats(counters: OutgoingCounters, readings: OutgoingReadings): RamStats {
  const { transferredBytes, remainingBytes, totalBytes, pages, pageSize } = readings;
  const precopyBytes = counters.precopyBytes ?? transferredBytes;
  const handedOverBytes = counters.handedOverBytes ?? transferredBytes;
  return {
    total: totalBytes,
    "postcopy-requests": readings.postcopyRequests,
    "dirty-sync-count": counters.rounds,
    "multifd-bytes": 0,
    "pages-per-second": Math.round(readings.pagesPerSecond),
    "downtime-bytes": handedOverBytes - precopyBytes,
    "page-size": pageSize,
    remaining: remainingBytes,
    "postcopy-bytes": transferredBytes - handedOverBytes,
    mbps: (readings.bytesPerSecond * 8) / 1_000_000,
    transferred: transferredBytes,
    "dirty-sync-missed-zero-copy": 0,
    "precopy-bytes": precopyBytes,
    duplicate: pages.zero,
    "dirty-pages-rate": Math.round(counters.dirtyPagesPerSecond),
    "normal-bytes": pages.normal * pageSize,
    normal: pages.normal,
  };
}

function whole(milliseconds: number): number {
  return Math.round(milliseconds);
}
