/**
 * The migration parameters of QEMU 11.1 (QAPI's `MigrationParameters`), with QEMU's names and defaults.
 *
 * @module
 */

/** Values of `multifd-compression` in a QEMU without compression hardware, as distributions build it. */
export const MULTIFD_COMPRESSIONS = ["none", "zlib", "zstd"] as const;

/** How multifd compresses pages. */
export type MultifdCompression = (typeof MULTIFD_COMPRESSIONS)[number];

/** Values of `mode` (QAPI's `MigMode`). */
export const MIGRATION_MODES = ["normal", "cpr-reboot", "cpr-transfer", "cpr-exec"] as const;

/** What a migration is for: another machine, or an update of QEMU in place (the `cpr-` modes). */
export type MigrationMode = (typeof MIGRATION_MODES)[number];

/** Values of `zero-page-detection` (QAPI's `ZeroPageDetection`). */
export const ZERO_PAGE_DETECTIONS = ["none", "legacy", "multifd"] as const;

/** Who looks for pages of zeros: nobody, the migration's thread, or multifd's threads where multifd is on. */
export type ZeroPageDetection = (typeof ZERO_PAGE_DETECTIONS)[number];

/** Names for the bitmaps of one block node in the stream (QAPI's `BitmapMigrationNodeAlias`). */
export interface BitmapMigrationNodeAlias {
  readonly "node-name": string;
  readonly alias: string;
  readonly bitmaps: readonly BitmapMigrationBitmapAlias[];
}

/** Name for one bitmap in the stream (QAPI's `BitmapMigrationBitmapAlias`). */
export interface BitmapMigrationBitmapAlias {
  readonly name: string;
  readonly alias: string;
  readonly transform?: { readonly persistent?: boolean };
}

/** Every migration parameter, in the order of QEMU's schema. Only `block-bitmap-mapping` may be unset. */
export interface MigrationParameters {
  /** Milliseconds before the first packet that announces the guest's network cards. */
  readonly "announce-initial": number;
  /** Milliseconds between two announcements at most. */
  readonly "announce-max": number;
  /** How many announcements. */
  readonly "announce-rounds": number;
  /** Milliseconds by which the time between two announcements grows. */
  readonly "announce-step": number;
  /** Percent: dirtied bytes over sent bytes of a pass from which auto-converge slows the CPUs down. */
  readonly "throttle-trigger-threshold": number;
  /** Percent by which the CPUs are slowed down at first. */
  readonly "cpu-throttle-initial": number;
  /** Percent added each time. */
  readonly "cpu-throttle-increment": number;
  /** Adds less towards the end. */
  readonly "cpu-throttle-tailslow": boolean;
  /** Object with the TLS credentials; empty for no TLS. */
  readonly "tls-creds": string;
  /** Name that the destination's certificate must have; empty for that of the URI. */
  readonly "tls-hostname": string;
  /** Object that checks the source's certificate; empty for none. */
  readonly "tls-authz": string;
  /** Bytes per second; 0 means no limit. */
  readonly "max-bandwidth": number;
  /** Bytes per second, for the estimate of the downtime; 0 means what is measured. */
  readonly "avail-switchover-bandwidth": number;
  /** Milliseconds. */
  readonly "downtime-limit": number;
  /** Milliseconds between two COLO checkpoints. */
  readonly "x-checkpoint-delay": number;
  readonly "multifd-channels": number;
  /** Bytes, a power of two. */
  readonly "xbzrle-cache-size": number;
  /** Bytes per second; 0 means no limit. */
  readonly "max-postcopy-bandwidth": number;
  /** Percent by which the CPUs are slowed down at most. */
  readonly "max-cpu-throttle": number;
  readonly "multifd-compression": MultifdCompression;
  readonly "multifd-zlib-level": number;
  readonly "multifd-qatzip-level": number;
  readonly "multifd-zstd-level": number;
  /** Names of dirty bitmaps in the stream; QEMU does not show it before it was set. */
  readonly "block-bitmap-mapping"?: readonly BitmapMigrationNodeAlias[];
  /** Milliseconds. */
  readonly "x-vcpu-dirty-limit-period": number;
  /** Megabytes per second. */
  readonly "vcpu-dirty-limit": number;
  readonly mode: MigrationMode;
  readonly "zero-page-detection": ZeroPageDetection;
  /** Whether files are opened with O_DIRECT; works only with `mapped-ram` and `multifd`. */
  readonly "direct-io": boolean;
  /** Bytes, a power of two. Not yet in QEMU 10.2. */
  readonly "x-rdma-chunk-size": number;
  /** The program that replaces QEMU in the mode `cpr-exec`, and its arguments. */
  readonly "cpr-exec-command": readonly string[];
}

/** QEMU's name of a migration parameter. */
export type ParameterName = keyof MigrationParameters;

/** What a QEMU that was told nothing has. */
export const DEFAULT_PARAMETERS: MigrationParameters = {
  "announce-initial": 50,
  "announce-max": 550,
  "announce-rounds": 5,
  "announce-step": 100,
  "throttle-trigger-threshold": 50,
  "cpu-throttle-initial": 20,
  "cpu-throttle-increment": 10,
  "cpu-throttle-tailslow": false,
  "tls-creds": "",
  "tls-hostname": "",
  "tls-authz": "",
  "max-bandwidth": 128 * 1024 * 1024,
  "avail-switchover-bandwidth": 0,
  "downtime-limit": 300,
  "x-checkpoint-delay": 20_000,
  "multifd-channels": 2,
  "xbzrle-cache-size": 64 * 1024 * 1024,
  "max-postcopy-bandwidth": 0,
  "max-cpu-throttle": 99,
  "multifd-compression": "none",
  "multifd-zlib-level": 1,
  "multifd-qatzip-level": 1,
  "multifd-zstd-level": 1,
  "x-vcpu-dirty-limit-period": 1000,
  "vcpu-dirty-limit": 1,
  mode: "normal",
  "zero-page-detection": "multifd",
  "direct-io": false,
  "x-rdma-chunk-size": 1024 * 1024,
  "cpr-exec-command": [],
};
