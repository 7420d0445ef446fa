/**
 * Makes TLS certificates and keys in QEMU's file layouts, with the `openssl` command.
 *
 * @module
 */

import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

/** Name that the server's certificate is for, besides `localhost` and 127.0.0.1. */
export const SERVER_NAME = "server.example";

/** Whether certificates can be made here. */
export function hasOpenssl(): boolean {
  return spawnSync("openssl", ["version"]).status === 0;
}

/** What a certificate is like. */
export interface CertificateOptions {
  /** subjectAltName; the default is that of a server. */
  readonly names?: string;
  /** Its time ended yesterday. */
  readonly expired?: boolean;
  /** A server's certificate says that it is a client's, and the other way round. */
  readonly swapRoles?: boolean;
}

/** A CA of its own, that exists for one test. */
export class TestCa {
  readonly #folder: string;
  #serial = 1;

  /** @param folder One that does not exist yet: the CA's certificate and key come there. */
  constructor(folder: string) {
    this.#folder = folder;
    mkdirSync(folder);
    openssl(folder, [
      ...["req", "-x509", ...NEW_KEY, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-days", "2"],
      ...["-subj", `/CN=Test CA ${path.basename(folder)}`],
      ...["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    ]);
  }

  /** Writes `ca-cert.pem`, and a certificate with its key for each side that is named, into a folder. */
  issue(
    folder: string,
    sides: readonly ("server" | "client")[] = ["server", "client"],
    options: CertificateOptions = {},
  ): string {
    mkdirSync(folder, { recursive: true });
    copyFileSync(path.join(this.#folder, "ca-cert.pem"), path.join(folder, "ca-cert.pem"));
    for (const side of sides) this.#issueOne(folder, side, options);
    return folder;
  }

  /** Writes a `ca-crl.pem` that takes back the certificates with these numbers: the first that was issued is 1. */
  revoke(folder: string, ...serials: readonly number[]): void {
    const config = "[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n";
    writeFileSync(path.join(this.#folder, "ca.conf"), config);
    const lines = serials.map((serial) => {
      const number = serial.toString(16).toUpperCase().padStart(2, "0");
      return `R\t491231235959Z\t240101000000Z\t${number}\tunknown\t/CN=revoked\n`;
    });
    writeFileSync(path.join(this.#folder, "index.txt"), lines.join(""));
    openssl(this.#folder, [
      ...["ca", "-gencrl", "-config", "ca.conf", "-cert", "ca-cert.pem", "-keyfile", "ca-key.pem"],
      ...["-out", path.join(folder, "ca-crl.pem")],
    ]);
  }

  #issueOne(folder: string, side: "server" | "client", options: CertificateOptions): void {
    const { names, expired = false, swapRoles = false } = options;
    const role = (side === "server") === swapRoles ? "client" : "server";
    const serial = this.#serial++;
    const subject = side === "server" ? SERVER_NAME : "client.example";
    const defaultNames =
      side === "server" ? `DNS:${SERVER_NAME},DNS:localhost,IP:127.0.0.1` : `DNS:${subject}`;
    const extensions = [
      "basicConstraints=critical,CA:FALSE",
      "keyUsage=critical,digitalSignature,keyEncipherment",
      `extendedKeyUsage=${role}Auth`,
      `subjectAltName=${names ?? defaultNames}`,
    ];
    const work = (name: string): string => path.join(this.#folder, `${name}-${serial}`);
    writeFileSync(work("ext"), extensions.join("\n"));
    openssl(folder, [
      ...["req", ...NEW_KEY, "-keyout", `${side}-key.pem`, "-out", work("csr"), "-subj", `/CN=${subject}`],
    ]);
    openssl(folder, [
      ...["x509", "-req", "-in", work("csr"), "-CA", path.join(this.#folder, "ca-cert.pem")],
      ...["-CAkey", path.join(this.#folder, "ca-key.pem"), "-set_serial", String(serial)],
      ...["-days", expired ? "-1" : "2", "-extfile", work("ext"), "-out", `${side}-cert.pem`],
    ]);
  }
}

/** Writes a `keys.psk` with one key, for QEMU's default user, into a new folder. */
export function makePskFolder(folder: string, username = "qemu"): string {
  mkdirSync(folder);
  writeFileSync(path.join(folder, "keys.psk"), `${username}:${randomBytes(32).toString("hex")}\n`);
  return folder;
}

/** Elliptic curves: made in no time. */
const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

function openssl(cwd: string, args: readonly string[]): void {
  execFileSync("openssl", args, { cwd, stdio: ["ignore", "ignore", "pipe"] });
}
