import type { TlsCredentials } from "../channels/index.js";
import { UsageError } from "../errors/index.js";

/** The TLS options as commander gives them. */
export interface TlsFlags {
  readonly tlsCredsX509?: string;
  readonly tlsPsk?: string;
  readonly tlsHostname?: string;
  readonly tlsUsername?: string;
  /** Always there: `--no-tls-verify-peer` makes it false. */
  readonly tlsVerifyPeer?: boolean;
}

/**
 * The credentials that the options name.
 *
 * @returns An object to spread into a session's options, with or without `tls`.
 * @throws UsageError for an option without the one that it goes with.
 */
export function tlsFrom(flags: TlsFlags): { readonly tls?: TlsCredentials } {
  const { tlsCredsX509: folder, tlsPsk: file, tlsHostname: hostname, tlsUsername: username } = flags;
  const verifyPeer = flags.tlsVerifyPeer ?? true;
  if (folder === undefined && (hostname !== undefined || !verifyPeer)) {
    const option = hostname === undefined ? "--no-tls-verify-peer" : "--tls-hostname";
    throw new UsageError(`${option} is about certificates`, { hint: "it goes with --tls-creds-x509" });
  }
  if (file === undefined && username !== undefined) {
    throw new UsageError("--tls-username says whose key to take", { hint: "it goes with --tls-psk" });
  }
  if (folder !== undefined) {
    return { tls: { kind: "x509", folder, verifyPeer, ...(hostname === undefined ? {} : { hostname }) } };
  }
  if (file === undefined) return {};
  return { tls: { kind: "psk", file, ...(username === undefined ? {} : { username }) } };
}
