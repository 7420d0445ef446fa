/**
 * Checks for the answers of QEMU's migration commands, and the types of settings as any version of QEMU has them. What
 * is the same for every version comes from `src/qapi/`.
 *
 * @module
 */
import * as v from "valibot";
import type { MigrationInfo, SocketAddress } from "../qapi/index.js";

/** A capability and whether it is on. */
export interface MigrationCapability {
  /** QEMU's name: `mapped-ram`, `multifd`, `events`, ... */
  readonly capability: string;
  readonly state: boolean;
}

/** Migration parameters; those that ramport does not name pass as they are. */
export interface MigrationParameters {
  /** Bytes per second; 0 means no limit. */
  readonly "max-bandwidth"?: number;
  /** Bytes per second, for the estimate of the downtime. */
  readonly "avail-switchover-bandwidth"?: number;
  /** Bytes per second. */
  readonly "max-postcopy-bandwidth"?: number;
  /** Milliseconds. */
  readonly "downtime-limit"?: number;
  /** Number of channels or threads, 1 to 255. */
  readonly "multifd-channels"?: number;
  /** `none`, `zlib`, `zstd`, ... */
  readonly "multifd-compression"?: string;
  /** `none`, `legacy` or `multifd`. */
  readonly "zero-page-detection"?: string;
  /** Whether files are opened with O_DIRECT; needs `mapped-ram`. */
  readonly "direct-io"?: boolean;
  /** `normal`, `cpr-reboot`, ... */
  readonly mode?: string;
  readonly "tls-creds"?: string;
  readonly "tls-hostname"?: string;
  readonly "tls-authz"?: string;
  readonly [parameter: string]: unknown;
}

const count = v.exactOptional(v.number());

const counts = v.exactOptional(v.array(v.number()));
const flag = v.exactOptional(v.boolean());

const ramStatsSchema = v.object({
  transferred: v.number(),
  remaining: v.number(),
  total: v.number(),
  duplicate: count,
  normal: count,
  "normal-bytes": count,
  "dirty-pages-rate": count,
  mbps: count,
  "dirty-sync-count": count,
  "dirty-sync-missed-zero-copy": count,
  "page-size": count,
  "multifd-bytes": count,
  "pages-per-second": count,
  "precopy-bytes": count,
  "downtime-bytes": count,
  "postcopy-bytes": count,
  "postcopy-requests": count,
});

const xbzrleCacheStatsSchema = v.object({
  "cache-size": v.number(),
  bytes: v.number(),
  pages: v.number(),
  "cache-miss": v.number(),
  "cache-miss-rate": v.number(),
  "encoding-rate": v.number(),
  overflow: v.number(),
});

const socketAddressSchema: v.GenericSchema<unknown, SocketAddress> = v.variant("type", [
  v.looseObject({
    type: v.literal("inet"),
    host: v.string(),
    port: v.string(),
    numeric: flag,
    to: count,
    ipv4: flag,
    ipv6: flag,
    "keep-alive": flag,
    "keep-alive-count": count,
    "keep-alive-idle": count,
    "keep-alive-interval": count,
    mptcp: flag,
  }),
  v.looseObject({ type: v.literal("unix"), path: v.string(), abstract: flag, tight: flag }),
  v.looseObject({ type: v.literal("vsock"), cid: v.string(), port: v.string() }),
  v.looseObject({ type: v.literal("fd"), str: v.string() }),
]);

// A kind of address that a newer QEMU brings is left out: nobody here could connect to it.
const socketAddressesSchema = v.pipe(
  v.array(v.unknown()),
  v.transform((list) => list.filter((one): one is SocketAddress => v.is(socketAddressSchema, one))),
);

/** Check for {@link MigrationInfo}. */
export const migrationInfoSchema: v.GenericSchema<unknown, MigrationInfo> = v.object({
  status: v.exactOptional(v.string()),
  ram: v.exactOptional(ramStatsSchema),
  remaining: count,
  vfio: v.exactOptional(v.object({ transferred: v.number() })),
  "xbzrle-cache": v.exactOptional(xbzrleCacheStatsSchema),
  "total-time": count,
  downtime: count,
  "expected-downtime": count,
  "setup-time": count,
  "error-desc": v.exactOptional(v.string()),
  "blocked-reasons": v.exactOptional(v.array(v.string())),
  "cpu-throttle-percentage": count,
  "postcopy-blocktime": count,
  "postcopy-vcpu-blocktime": counts,
  "postcopy-latency": count,
  "postcopy-latency-dist": counts,
  "postcopy-vcpu-latency": counts,
  "postcopy-non-vcpu-latency": count,
  "socket-address": v.exactOptional(socketAddressesSchema),
  "dirty-limit-throttle-time-per-round": count,
  "dirty-limit-ring-full-time": count,
});

/** Check for the answer of `query-migrate-capabilities`. */
export const migrationCapabilitiesSchema: v.GenericSchema<unknown, readonly MigrationCapability[]> = v.array(
  v.object({ capability: v.string(), state: v.boolean() }),
);

const text = v.exactOptional(v.string());

/** Check for {@link MigrationParameters}. */
export const migrationParametersSchema: v.GenericSchema<unknown, MigrationParameters> = v.looseObject({
  "max-bandwidth": count,
  "avail-switchover-bandwidth": count,
  "max-postcopy-bandwidth": count,
  "downtime-limit": count,
  "multifd-channels": count,
  "multifd-compression": text,
  "zero-page-detection": text,
  "direct-io": v.exactOptional(v.boolean()),
  mode: text,
  "tls-creds": text,
  "tls-hostname": text,
  "tls-authz": text,
});
