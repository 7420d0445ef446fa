import { MachineError, printable } from "../errors/index.js";
import { errnoCode } from "./system-error.js";
import type { TlsCredentials, TlsEndpoint } from "./tls-credentials.js";

/** The other side of a handshake. */
export interface TlsPeer {
  /** What the address is called in errors. */
  readonly name: string;
  /** What the other side is. */
  readonly role: TlsEndpoint;
  /** Those of this side. */
  readonly credentials: TlsCredentials;
  /** Of a server: the name that its certificate must have. */
  readonly hostname?: string;
}

/** OpenSSL's names for what is wrong with a chain of certificates. */
const NOT_OF_THIS_CA = new Set([
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "CERT_SIGNATURE_FAILURE",
  "CERT_UNTRUSTED",
  "INVALID_CA",
]);

const CERTIFICATE_PROBLEMS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: "has expired",
  CERT_NOT_YET_VALID: "is not valid yet: is a clock wrong?",
  CERT_REVOKED: "is revoked by ca-crl.pem",
  INVALID_PURPOSE: "is not made for this side of a TLS connection",
  UNABLE_TO_GET_CRL: "cannot be checked: ca-crl.pem has no list of its CA",
  CRL_HAS_EXPIRED: "cannot be checked: the list in ca-crl.pem has expired",
};

/** What OpenSSL calls an alert of the other side depends on its version, and on that of TLS. */
const ALERT_PREFIX = /^ERR_SSL_(?:SSLV3|TLSV1|TLSV13|SSL\/TLS)_ALERT_/;

const OTHER_KEY = new Set([
  "ERR_SSL_BINDER_DOES_NOT_VERIFY",
  "ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
  "ERR_SSL_BAD_RECORD_MAC",
  "ERR_SSL_CIPHER_OPERATION_FAILED",
  "ERR_SSL_DIGEST_CHECK_FAILED",
  "ERR_SSL_ALERT_BAD_RECORD_MAC",
  "ERR_SSL_ALERT_DECRYPT_ERROR",
  "ERR_SSL_ALERT_ILLEGAL_PARAMETER",
]);

const NO_TLS = new Set([
  "ERR_SSL_WRONG_VERSION_NUMBER",
  "ERR_SSL_HTTP_REQUEST",
  "ERR_SSL_HTTPS_PROXY_REQUEST",
  "ERR_SSL_UNEXPECTED_MESSAGE",
  "ERR_SSL_PACKET_LENGTH_TOO_LONG",
  "ERR_SSL_RECORD_LAYER_FAILURE",
]);

/**
 * Turns what a handshake failed with into one sentence.
 *
 * @param cause undefined when the connection was simply closed.
 * @returns MachineError `tls` where this side refuses, `connection-closed` where the other one does.
 */
export function handshakeError(peer: TlsPeer, cause: Error | undefined): MachineError {
  const { name, role, credentials } = peer;
  const code = (errnoCode(cause) ?? "").replace(ALERT_PREFIX, "ERR_SSL_ALERT_");
  const refused = (message: string, hint?: string, actual?: string): MachineError =>
    new MachineError(
      "tls",
      message,
      {
        path: name,
        ...(hint === undefined ? {} : { hint }),
        ...(actual === undefined ? {} : { actual }),
      },
      cause,
    );
  if (credentials.kind === "psk" && (OTHER_KEY.has(code) || code.includes("PSK_IDENTITY"))) {
    return refused(
      `TLS with ${name} failed: the two sides have different keys, or another username for theirs`,
    );
  }
  if (NO_TLS.has(code)) {
    return refused(
      `The other side of ${name} does not speak TLS`,
      "set its tls-creds, or leave the TLS options out here",
    );
  }
  if (code === "ERR_SSL_NO_SHARED_CIPHER" || code === "ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM") {
    return refused(
      `The two sides of ${name} share no way to do TLS`,
      "do both have certificates, or both a pre-shared key?",
    );
  }
  const certificate = certificateError(peer, code, cause, refused);
  if (certificate !== undefined) return certificate;
  return otherSideRefused(name, role, code, cause);
}

function certificateError(
  { name, role, credentials, hostname }: TlsPeer,
  code: string,
  cause: Error | undefined,
  refused: (message: string, hint?: string, actual?: string) => MachineError,
): MachineError | undefined {
  const folder = credentials.kind === "x509" ? printable(credentials.folder) : "";
  const whose = `The certificate of the TLS ${role} at ${name}`;
  if (code === "NO_CERTIFICATE") {
    return refused(
      `The TLS client at ${name} showed no certificate`,
      "give it a client-cert.pem and client-key.pem of the same CA",
    );
  }
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    return refused(
      `${whose} is not for the name ${printable(hostname ?? "")}`,
      "connect to a name that it has, or give that name with --tls-hostname",
      namesOf(cause),
    );
  }
  if (NOT_OF_THIS_CA.has(code)) return refused(`${whose} is not signed by the CA of ${folder}/ca-cert.pem`);
  const problem = CERTIFICATE_PROBLEMS[code];
  return problem === undefined ? undefined : refused(`${whose} ${problem}`);
}

function otherSideRefused(
  name: string,
  role: TlsEndpoint,
  code: string,
  cause: Error | undefined,
): MachineError {
  const alert = /^ERR_SSL_ALERT_(?<alert>\w+)$/.exec(code)?.groups?.alert;
  const closed = code === "" || code === "ECONNRESET" || code === "EPIPE";
  if (alert === undefined && !closed) {
    const why = code
      .replace(/^ERR_SSL_/, "")
      .replaceAll("_", " ")
      .toLowerCase();
    return new MachineError("tls", `The TLS handshake with ${name} failed: ${why}`, { path: name }, cause);
  }
  const how =
    alert === undefined
      ? "closed the connection during the TLS handshake"
      : `refused the TLS handshake: ${alert.replaceAll("_", " ").toLowerCase()}`;
  const hint = `its own error says why: ${
    role === "server"
      ? "it may not use TLS, or not take this side's certificate or key"
      : "it may not take this side's certificate or its name, or have another key"
  }`;
  return new MachineError(
    "connection-closed",
    `The other side of ${name} ${how}`,
    { path: name, hint },
    cause,
  );
}

/** The names in the certificate that Node puts beside its error. */
function namesOf(cause: Error | undefined): string | undefined {
  const { cert } = (cause ?? {}) as {
    readonly cert?: { readonly subjectaltname?: string; readonly subject?: { readonly CN?: unknown } };
  };
  if (cert?.subjectaltname !== undefined) return cert.subjectaltname;
  return typeof cert?.subject?.CN === "string" ? cert.subject.CN : undefined;
}
