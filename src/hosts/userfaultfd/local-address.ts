import type { MigrationUri } from "../../channels/index.js";
import type { UffdCalls } from "./system.js";

/** A socket's address. */
export type SocketUri = Extract<MigrationUri, { readonly kind: "unix" | "tcp" }>;

/** Numbers of Linux's address families. */
const Family = { UNIX: 1, INET: 2, INET6: 10 } as const;
/** `struct sockaddr_storage`. */
const ADDRESS_BYTES = 128;
const AT_PATH = 2;

/** Where a connection was accepted, by the kernel; undefined for one that was not accepted at an address that can be named. */
export function localAddress(calls: UffdCalls, fd: number): SocketUri | undefined {
  const bytes = Buffer.alloc(ADDRESS_BYTES);
  const length = new Uint32Array([ADDRESS_BYTES]);
  if (calls.getsockname(fd, bytes, length) !== 0) return undefined;
  switch (bytes.readUInt16LE(0)) {
    case Family.UNIX: {
      const end = bytes.indexOf(0, AT_PATH);
      // One that connected has no name; names that begin with 0 are not in the file system.
      return end > AT_PATH ? { kind: "unix", path: bytes.toString("utf8", AT_PATH, end) } : undefined;
    }
    case Family.INET:
      return { kind: "tcp", host: bytes.subarray(4, 8).join("."), port: bytes.readUInt16BE(2) };
    case Family.INET6: {
      const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(8 + index * 2).toString(16));
      return { kind: "tcp", host: groups.join(":"), port: bytes.readUInt16BE(2) };
    }
    default:
      return undefined;
  }
}
