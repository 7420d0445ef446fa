/**
 * Arguments and answers of QEMU's migration commands. Field names are QEMU's.
 *
 * @module
 */
import * as v from "valibot";
import type { MigrationStatus } from "./states.js";

/** Counters of the guest's RAM. Pages are of `page-size` bytes. */
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
  readonly "dirty-sync-missed-zero-copy"?: number;
  /** Bytes. */
  readonly "page-size"?: number;
  /** Bytes sent through multifd channels. */
  readonly "multifd-bytes"?: number;
  readonly "pages-per-second"?: number;
  readonly "precopy-bytes"?: number;
  readonly "downtime-bytes"?: number;
  readonly "postcopy-bytes"?: number;
  readonly "postcopy-requests"?: number;
}

/** Answer of `query-migrate`. A QEMU that never migrated answers with no field at all. */
export interface MigrationInfo {
  readonly status?: MigrationStatus;
  readonly ram?: RamStats;
  /** Milliseconds since the start, or in all once it has ended. */
  readonly "total-time"?: number;
  /** Milliseconds the guest stood still; only when completed. */
  readonly downtime?: number;
  /** Milliseconds the guest is expected to stand still; only while active. */
  readonly "expected-downtime"?: number;
  /** Milliseconds of preparation before the first page. */
  readonly "setup-time"?: number;
  /** QEMU's words on why it failed. */
  readonly "error-desc"?: string;
  /** Reasons why migration is impossible at the moment. */
  readonly "blocked-reasons"?: readonly string[];
  /** Percent by which the CPUs are slowed down to let the migration converge. */
  readonly "cpu-throttle-percentage"?: number;
}

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

/** Where one channel of a migration goes. Numbers in `port` are text, as QEMU has them. */
export type MigrationAddress =
  | { readonly transport: "socket"; readonly type: "unix"; readonly path: string }
  | { readonly transport: "socket"; readonly type: "inet"; readonly host: string; readonly port: string }
  | { readonly transport: "socket"; readonly type: "vsock"; readonly cid: string; readonly port: string }
  /** `str` is the name given to `getfd`, or the number of a descriptor of QEMU. */
  | { readonly transport: "socket"; readonly type: "fd"; readonly str: string }
  /** `offset` in bytes, where the stream starts in the file. */
  | { readonly transport: "file"; readonly filename: string; readonly offset: number }
  | { readonly transport: "exec"; readonly args: readonly string[] }
  | { readonly transport: "rdma"; readonly host: string; readonly port: string };

/** One channel of a migration. */
export interface MigrationChannel {
  readonly "channel-type": "main" | "cpr";
  readonly addr: MigrationAddress;
}

/** Where a migration goes to or comes from: a URI (`unix:/x`, `file:/x,offset=0x1000`, `fd:name`) or channels. */
export type MigrationTarget =
  | { readonly uri: string; readonly channels?: never }
  | { readonly channels: readonly MigrationChannel[]; readonly uri?: never };

/** Arguments of `migrate`. */
export type MigrateArgs = MigrationTarget & {
  /** Continues a paused postcopy migration. */
  readonly resume?: boolean;
};

/** Arguments of `migrate-incoming`. */
export type MigrateIncomingArgs = MigrationTarget & {
  /** Whether QEMU exits when the migration fails; its default is true. QEMU 9.1 and newer. */
  readonly "exit-on-error"?: boolean;
};

const count = v.exactOptional(v.number());

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

/** Check for {@link MigrationInfo}. */
export const migrationInfoSchema: v.GenericSchema<unknown, MigrationInfo> = v.object({
  status: v.exactOptional(v.string()),
  ram: v.exactOptional(ramStatsSchema),
  "total-time": count,
  downtime: count,
  "expected-downtime": count,
  "setup-time": count,
  "error-desc": v.exactOptional(v.string()),
  "blocked-reasons": v.exactOptional(v.array(v.string())),
  "cpu-throttle-percentage": count,
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
