import { createPrivateKey, X509Certificate } from "node:crypto";
import fs from "node:fs";
import path from "node:path";

import { MachineError, printable, UsageError } from "../errors/index.js";
import { errnoCode, systemError } from "./system-error.js";

/** Certificates in a folder with the file names of QEMU's `tls-creds-x509` object. */
export interface X509Credentials {
  readonly kind: "x509";
  /**
   * A listening side has `ca-cert.pem`, `server-cert.pem` and `server-key.pem` there; a connecting one `ca-cert.pem` and, when it
   * shows a certificate itself, `client-cert.pem` and `client-key.pem`. `ca-crl.pem` may be there too.
   */
  readonly folder: string;
  /** Whether the other side has to show a certificate of the CA, and a server one for its name; the default is true. */
  readonly verifyPeer?: boolean;
  /** Name that a server's certificate must have; the default is the host that is connected to. */
  readonly hostname?: string;
}

/** A key that both sides know, in a file as QEMU's `tls-creds-psk` object reads it. */
export interface PskCredentials {
  readonly kind: "psk";
  /** Lines `username:key`, the key in hexadecimal, as GnuTLS's `psktool` writes them; or the folder with `keys.psk` in it. */
  readonly file: string;
  /** Whose key a connecting side takes; the default is QEMU's. A listening side takes every one in the file. */
  readonly username?: string;
}

/** What TLS on a connection works with. The files are read when a connection is opened. */
export type TlsCredentials = X509Credentials | PskCredentials;

/** The side of a connection: the one that listens is the server. QEMU's `endpoint`. */
export type TlsEndpoint = "client" | "server";

/** Contents of the files that one side needs. */
export type TlsMaterial = X509Material | PskMaterial;

/** Everything in PEM. */
export interface X509Material {
  readonly kind: "x509";
  readonly ca: string;
  readonly crl?: string;
  /** Absent on a client that shows no certificate. */
  readonly own?: { readonly cert: string; readonly key: string };
}

/** Keys by username. */
export interface PskMaterial {
  readonly kind: "psk";
  readonly keys: ReadonlyMap<string, Uint8Array>;
}

/** QEMU's `username` when nothing else is set. */
export const DEFAULT_PSK_USERNAME = "qemu";
/** Name of the file in the folder that QEMU's object gets. */
export const PSK_FILE = "keys.psk";

/** No chain of certificates, and no list of keys for people, is that long. */
const LARGEST_FILE_BYTES = 4 << 20;
/** Both from RFC 4279: what every implementation has to take is below OpenSSL's limits of 128 and 256 bytes. */
const LONGEST_IDENTITY_BYTES = 128;
const LONGEST_KEY_BYTES = 256;

/**
 * Reads and checks the files that one side of a connection needs.
 *
 * @throws UsageError when one is missing or is not what it should be; MachineError `io` when it cannot be read.
 */
export function loadTlsCredentials(credentials: TlsCredentials, endpoint: TlsEndpoint): TlsMaterial {
  return credentials.kind === "x509" ? loadX509(credentials, endpoint) : loadPsk(credentials, endpoint);
}

/** Path of the file with the keys. */
export function pskFilePath({ file }: PskCredentials): string {
  const isFolder = fs.statSync(file, { throwIfNoEntry: false })?.isDirectory() === true;
  return isFolder ? path.join(file, PSK_FILE) : file;
}

/**
 * A name that the server's certificate in a folder is for: what a client can check where the address names no host.
 *
 * @returns A DNS name, or else an IP address or the common name; undefined when there is no such file.
 * @throws As {@link loadTlsCredentials}.
 */
export function nameOfServerCertificate({ folder }: X509Credentials): string | undefined {
  const file = path.join(folder, "server-cert.pem");
  const pem = readOptional(file);
  if (pem === undefined) return undefined;
  const [certificate] = parseCertificates(pem, file);
  const names = certificate?.subjectAltName?.split(", ") ?? [];
  for (const kind of ["DNS:", "IP Address:"]) {
    const name = names.find((one) => one.startsWith(kind) && !one.includes("*"));
    if (name !== undefined) return name.slice(kind.length);
  }
  return /^CN=(?<name>.+)$/m.exec(certificate?.subject ?? "")?.groups?.name;
}

function loadX509({ folder }: X509Credentials, endpoint: TlsEndpoint): X509Material {
  checkFolder(folder);
  const caFile = path.join(folder, "ca-cert.pem");
  const ca = readNeeded(caFile, "it holds the certificate of the CA that both sides trust");
  for (const certificate of parseCertificates(ca, caFile)) checkValidity(certificate, caFile);
  const crl = readOptional(path.join(folder, "ca-crl.pem"));
  const own = loadOwn(folder, endpoint);
  return {
    kind: "x509",
    ca,
    ...(crl === undefined ? {} : { crl }),
    ...(own === undefined ? {} : { own }),
  };
}

/** A side's own certificate, which a server must have; a client has both of its files, or neither. */
function loadOwn(folder: string, endpoint: TlsEndpoint): { cert: string; key: string } | undefined {
  const certFile = path.join(folder, `${endpoint}-cert.pem`);
  const keyFile = path.join(folder, `${endpoint}-key.pem`);
  const why = endpoint === "server" ? "the side that listens needs it" : "a certificate needs its key";
  const isOptional = endpoint === "client" && !fs.existsSync(certFile) && !fs.existsSync(keyFile);
  if (isOptional) return undefined;
  const cert = readNeeded(certFile, why);
  const key = readNeeded(keyFile, why);
  const [certificate] = parseCertificates(cert, certFile);
  if (certificate !== undefined) {
    checkValidity(certificate, certFile);
    if (!certificate.checkPrivateKey(parseKey(key, keyFile))) {
      throw new UsageError(`${printable(keyFile)} is not the key of the certificate beside it`, {
        path: keyFile,
      });
    }
  }
  return { cert, key };
}

function loadPsk(credentials: PskCredentials, endpoint: TlsEndpoint): PskMaterial {
  const file = pskFilePath(credentials);
  const text = readNeeded(file, "it holds the keys, as lines username:key");
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line === "") continue;
    const { name, hex } = /^(?<name>[^:]+):(?<hex>(?:[0-9a-f]{2})+)$/i.exec(line)?.groups ?? {};
    const key = Buffer.from(hex ?? "", "hex");
    // GnuTLS writes a name that is no text as # and its bytes in hexadecimal.
    const username = name?.startsWith("#") === true ? fromHex(name.slice(1)) : name;
    if (
      username === undefined ||
      key.length === 0 ||
      key.length > LONGEST_KEY_BYTES ||
      Buffer.byteLength(username) > LONGEST_IDENTITY_BYTES
    ) {
      throw new UsageError(`Line ${index + 1} of ${printable(file)} is not of the form username:hexkey`, {
        path: file,
        hint: `make one with psktool -u ${DEFAULT_PSK_USERNAME} -p ${PSK_FILE}`,
      });
    }
    keys.set(username, key);
  }
  const wanted = credentials.username ?? DEFAULT_PSK_USERNAME;
  if (keys.size === 0) throw new UsageError(`${printable(file)} holds no key`, { path: file });
  if (endpoint === "client" && !keys.has(wanted)) {
    throw new UsageError(`${printable(file)} has no key for the user ${printable(wanted)}`, { path: file });
  }
  return { kind: "psk", keys };
}

function fromHex(text: string): string | undefined {
  return /^(?:[0-9a-f]{2})+$/i.test(text) ? Buffer.from(text, "hex").toString() : undefined;
}

function checkFolder(folder: string): void {
  const stats = fs.statSync(folder, { throwIfNoEntry: false });
  if (stats?.isDirectory() === true) return;
  const what = stats === undefined ? "does not exist" : "is no folder";
  throw new UsageError(`The folder with the TLS certificates ${what}: ${printable(folder)}`, {
    path: folder,
  });
}

function readNeeded(file: string, why: string): string {
  const text = readOptional(file);
  if (text !== undefined) return text;
  throw new UsageError(`The TLS file ${printable(file)} is missing`, { path: file, hint: why });
}

function readOptional(file: string): string | undefined {
  try {
    const stats = fs.statSync(file);
    if (stats.size > LARGEST_FILE_BYTES) {
      throw new UsageError(`${printable(file)} is too large for TLS certificates or keys`, {
        path: file,
        expected: `at most ${LARGEST_FILE_BYTES} bytes`,
        actual: stats.size,
      });
    }
    return fs.readFileSync(file, "utf8");
  } catch (cause) {
    if (errnoCode(cause) === "ENOENT") return undefined;
    throw systemError("Reading", file, cause);
  }
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

function parseCertificates(pem: string, file: string): readonly X509Certificate[] {
  const blocks = pem.match(CERTIFICATE) ?? [];
  try {
    if (blocks.length > 0) return blocks.map((block) => new X509Certificate(block));
  } catch (cause) {
    throw notPem(file, "certificate", cause);
  }
  throw notPem(file, "certificate", undefined);
}

function parseKey(pem: string, file: string): ReturnType<typeof createPrivateKey> {
  if (/-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type:.*ENCRYPTED/m.test(pem)) {
    throw new UsageError(`The key in ${printable(file)} is encrypted, and ramport takes no password for it`, {
      path: file,
      hint: "take a copy without one: openssl pkey -in KEY -out COPY",
    });
  }
  try {
    return createPrivateKey(pem);
  } catch (cause) {
    throw notPem(file, "private key", cause);
  }
}

function notPem(file: string, what: string, cause: unknown): UsageError {
  return new UsageError(`${printable(file)} holds no ${what} in PEM format`, { path: file }, cause);
}

/** As QEMU does: the other side would refuse it, with a message about neither file nor date. */
function checkValidity(certificate: X509Certificate, file: string): void {
  const now = Date.now();
  if (now > Date.parse(certificate.validTo)) {
    throw new MachineError("tls", `The certificate in ${printable(file)} has expired`, {
      path: file,
      actual: certificate.validTo,
    });
  }
  if (now < Date.parse(certificate.validFrom)) {
    throw new MachineError("tls", `The certificate in ${printable(file)} is not valid yet`, {
      path: file,
      actual: certificate.validFrom,
    });
  }
}
