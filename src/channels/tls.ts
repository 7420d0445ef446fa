import type net from "node:net";
import { isIP } from "node:net";
import tls from "node:tls";

import { CancelledError, MachineError, throwIfAborted, UsageError } from "../errors/index.js";
import {
  DEFAULT_PSK_USERNAME,
  loadTlsCredentials,
  type PskMaterial,
  type TlsCredentials,
  type X509Material,
} from "./tls-credentials.js";
import { handshakeError, type TlsPeer } from "./tls-errors.js";

/** A handshake is a few messages; a peer that does not answer for so long is none that speaks TLS. */
const HANDSHAKE_MS = 30_000;

/**
 * What QEMU's GnuTLS and OpenSSL have in common for keys that both sides know, with ephemeral keys. OpenSSL takes such a key
 * in TLS 1.3 for SHA-256 only; in TLS 1.2 it has AES-GCM with classic Diffie-Hellman only. GnuTLS needs four times as long
 * for ChaCha20 as for AES-GCM.
 */
const PSK_CIPHERS = [
  "TLS_AES_128_GCM_SHA256",
  "TLS_CHACHA20_POLY1305_SHA256",
  "DHE-PSK-AES128-GCM-SHA256",
  "DHE-PSK-AES256-GCM-SHA384",
  "ECDHE-PSK-CHACHA20-POLY1305",
  "DHE-PSK-CHACHA20-POLY1305",
].join(":");

/** Turns a connected socket into one with TLS; the socket belongs to the result, and is destroyed when that fails. */
export type SecureSocket = (socket: net.Socket, signal?: AbortSignal) => Promise<tls.TLSSocket>;

/**
 * Reads what the side that listens needs.
 *
 * It speaks TLS 1.2: in 1.3 OpenSSL sends session tickets behind the handshake, and a QEMU without a return path never
 * reads them. The kernel answers closing a connection with unread bytes by a reset, which throws away what the other side
 * has not received yet: the end of the stream. Node has no setting for "no tickets".
 *
 * @param name What the address is called in errors.
 * @throws UsageError, MachineError: see `loadTlsCredentials`. The handshake throws MachineError `tls`,
 *   `connection-closed`, `timeout`; CancelledError.
 */
export function prepareServer(credentials: TlsCredentials, name: string): SecureSocket {
  const material = loadTlsCredentials(credentials, "server");
  const peer: TlsPeer = { name, role: "client", credentials };
  const options: tls.TlsOptions = {
    ...(material.kind === "x509" ? x509Options(material) : pskServerOptions(material)),
    minVersion: "TLSv1.2",
    maxVersion: "TLSv1.2",
    dhparam: "auto",
    requestCert: verifies(credentials),
    // Refused here, not in Node, which would close without a word.
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE_MS,
  };
  checkContext(options);
  return (socket, signal) =>
    handshake(socket, peer, signal, (done, failed) => {
      // Documented for sockets that come from elsewhere: it never listens itself.
      const server = tls.createServer(options);
      server.once("tlsClientError", failed);
      server.once("secureConnection", (secured) => {
        if (verifies(credentials) && !secured.authorized) failed(refusal(secured));
        else done(secured);
      });
      server.emit("connection", socket);
    });
}

/**
 * Reads what the side that connects needs.
 *
 * @param host What the address names, where it does: the server's certificate must be for it, unless the credentials say
 *   another name.
 * @throws UsageError also when nothing says how the server is called. The rest is as for {@link prepareServer}.
 */
export function prepareClient(
  credentials: TlsCredentials,
  name: string,
  host: string | undefined,
): SecureSocket {
  const material = loadTlsCredentials(credentials, "client");
  const hostname = credentials.kind === "x509" ? (credentials.hostname ?? host) : undefined;
  if (verifies(credentials) && hostname === undefined) {
    throw new UsageError("Nothing says which name the server's TLS certificate has to have", {
      hint: "this address has no host: give the name with --tls-hostname",
    });
  }
  const peer: TlsPeer = {
    name,
    role: "server",
    credentials,
    ...(hostname === undefined ? {} : { hostname }),
  };
  const options: tls.ConnectionOptions = {
    ...(material.kind === "x509" ? x509Options(material) : pskClientOptions(material, credentials)),
    minVersion: "TLSv1.2",
    rejectUnauthorized: material.kind === "psk" || verifies(credentials),
    checkServerIdentity: (_, certificate) =>
      hostname === undefined ? undefined : tls.checkServerIdentity(hostname, certificate),
    ...(hostname === undefined || isIP(hostname) > 0 ? {} : { servername: hostname }),
  };
  checkContext(options);
  return (socket, signal) =>
    handshake(socket, peer, signal, (done, failed) => {
      const secured = tls.connect({ ...options, socket });
      secured.once("secureConnect", () => {
        secured.off("error", failed);
        done(secured);
      });
      secured.once("error", failed);
    });
}

/** Waits for the end of a handshake, however it ends. */
function handshake(
  socket: net.Socket,
  peer: TlsPeer,
  signal: AbortSignal | undefined,
  begin: (done: (secured: tls.TLSSocket) => void, failed: (error: Error) => void) => void,
): Promise<tls.TLSSocket> {
  if (signal?.aborted === true) socket.destroy();
  throwIfAborted(signal);
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      socket.off("close", closed);
    };
    const fail = (error: Error): void => {
      settle();
      socket.destroy();
      reject(error);
    };
    const closed = (): void => fail(handshakeError(peer, undefined));
    const abort = (): void => fail(new CancelledError(undefined, signal?.reason));
    const timer = setTimeout(() => {
      const message = `The TLS handshake with ${peer.name} did not end within ${HANDSHAKE_MS / 1000} s`;
      fail(new MachineError("timeout", message, { path: peer.name }));
    }, HANDSHAKE_MS);
    signal?.addEventListener("abort", abort, { once: true });
    socket.once("close", closed);
    // A second one, after the first was reported, is of no interest.
    socket.on("error", () => undefined);
    begin(
      (secured) => {
        settle();
        // What goes wrong before the channel listens is told by the end that follows it.
        secured.on("error", () => undefined);
        resolve(secured);
      },
      (error) => fail(handshakeError(peer, error)),
    );
  });
}

function verifies(credentials: TlsCredentials): boolean {
  return credentials.kind === "x509" && (credentials.verifyPeer ?? true);
}

function x509Options({ ca, crl, own }: X509Material): tls.SecureContextOptions {
  return { ca, ...(crl === undefined ? {} : { crl }), ...own };
}

function pskServerOptions({ keys }: PskMaterial): tls.TlsOptions {
  return { ciphers: PSK_CIPHERS, pskCallback: (_, identity) => keys.get(identity) ?? null };
}

function pskClientOptions({ keys }: PskMaterial, credentials: TlsCredentials): tls.ConnectionOptions {
  const identity = (credentials.kind === "psk" ? credentials.username : undefined) ?? DEFAULT_PSK_USERNAME;
  const psk = keys.get(identity) ?? new Uint8Array();
  return { ciphers: PSK_CIPHERS, pskCallback: () => ({ identity, psk }) };
}

/** What OpenSSL does not take (a key that is too short, a damaged revocation list) is known before anybody connects. */
function checkContext(options: tls.SecureContextOptions): void {
  try {
    tls.createSecureContext(options);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new UsageError(`The TLS credentials cannot be used: ${why}`, {}, cause);
  }
}

/** Why a client is not let in. */
function refusal(socket: tls.TLSSocket): Error {
  const hasCertificate = Object.keys(socket.getPeerCertificate()).length > 0;
  // Typed as an error; it is the code.
  const code: unknown = hasCertificate ? socket.authorizationError : "NO_CERTIFICATE";
  return Object.assign(new Error("not authorized"), { code });
}
