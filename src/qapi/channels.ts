/**
 * Where a migration goes: the address types of `migrate`, `migrate-incoming` and `query-migrate`.
 *
 * @module
 */

/** A socket (QAPI's `SocketAddress`), as `query-migrate` reports it. Numbers in `port` and `cid` are text, as QEMU has them. */
export type SocketAddress =
  | {
      readonly type: "inet";
      readonly host: string;
      readonly port: string;
      readonly numeric?: boolean;
      /** Last port of a range to try. */
      readonly to?: number;
      readonly ipv4?: boolean;
      readonly ipv6?: boolean;
      readonly "keep-alive"?: boolean;
      readonly "keep-alive-count"?: number;
      /** Seconds. */
      readonly "keep-alive-idle"?: number;
      /** Seconds. */
      readonly "keep-alive-interval"?: number;
      readonly mptcp?: boolean;
    }
  | { readonly type: "unix"; readonly path: string; readonly abstract?: boolean; readonly tight?: boolean }
  | { readonly type: "vsock"; readonly cid: string; readonly port: string }
  | { readonly type: "fd"; readonly str: string };

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
