import { randomBytes } from "node:crypto";
import path from "node:path";

import {
  DEFAULT_PSK_USERNAME,
  loadTlsCredentials,
  nameOfServerCertificate,
  PSK_FILE,
  pskFilePath,
  type TlsCredentials,
  type TlsEndpoint,
  type X509Credentials,
} from "../channels/index.js";
import { MachineError, UsageError } from "../errors/index.js";
import { type MigrationParameters, QmpCommandError, type QmpClient } from "../qmp/index.js";
import type { MigrationAbilities } from "./migration-settings.js";
import type { SocketUri } from "./via.js";

/** A migration between ramport and a QEMU on a socket, as far as TLS is concerned. */
export interface TlsWithQemu {
  readonly qmp: QmpClient;
  readonly abilities: MigrationAbilities;
  /** undefined for none. */
  readonly tls: TlsCredentials | undefined;
  /** What the QEMU is: the side that it does not listen on is the client. */
  readonly endpoint: TlsEndpoint;
  /** Where the user wants it to travel; undefined for a private socket. */
  readonly via: SocketUri | undefined;
  readonly onMessage: ((message: string) => void) | undefined;
}

/** What QEMU's side needs: parameters to set for the migration, and what to do after them. */
export interface QemuTls {
  readonly parameters: MigrationParameters;
  /** The object with the credentials; absent where the QEMU has its own. */
  readonly objectId?: string;
  /** Takes the credentials out of the QEMU, where they were put there. Does not throw. */
  remove(): Promise<void>;
}

/**
 * Lets a QEMU use TLS for one migration. Credentials that it has set already stay in use; otherwise it gets the files that
 * ramport uses, as an object that goes away afterwards.
 *
 * @throws UsageError when the files are not laid out for QEMU; MachineError when it cannot use them, or when it is set to
 *   use TLS, ramport is not, and the migration leaves this machine.
 */
export async function prepareQemuTls(side: TlsWithQemu): Promise<QemuTls> {
  const { qmp, abilities, tls, endpoint, via, onMessage } = side;
  const own = textOf(abilities.parameters["tls-creds"]);
  if (tls === undefined) {
    if (own !== "") withoutTls(own, via, onMessage);
    return { parameters: {}, remove: () => Promise.resolve() };
  }
  const hostname = endpoint === "client" ? { "tls-hostname": hostnameForQemu(side, tls) } : {};
  if (own !== "") {
    onMessage?.(`The QEMU keeps the TLS credentials that it is set to: ${own}`);
    return { parameters: { "tls-creds": own, ...hostname }, remove: () => Promise.resolve() };
  }
  const { arguments: wanted, folder } = objectFor(tls, endpoint);
  const id = `ramport-tls-${randomBytes(4).toString("hex")}`;
  await qmp.execute("object-add", { ...wanted, id, endpoint }).catch((error: unknown) => {
    if (!(error instanceof QmpCommandError)) throw error;
    const hint =
      "QEMU reads them itself, as its own user; or set tls-creds in it to credentials that it has already";
    const message = `The QEMU cannot use the TLS credentials in ${folder}: ${error.desc}`;
    throw new MachineError("not-capable", message, { hint, path: folder }, error);
  });
  return {
    parameters: { "tls-creds": id, ...hostname },
    objectId: id,
    remove: () => removeQemuTls(qmp, id),
  };
}

/** Takes credentials out of a QEMU. Does not throw: one that has gone has no object either. */
export async function removeQemuTls(qmp: QmpClient, objectId: string): Promise<void> {
  await qmp.execute("object-del", { id: objectId }).catch(() => undefined);
}

/**
 * Checks that a migration that is taken up again goes on as it began: its QEMU listens with TLS or without it.
 *
 * @throws UsageError.
 */
export function expectSameTls({ parameters }: MigrationAbilities, tls: TlsCredentials | undefined): void {
  const isSet = textOf(parameters["tls-creds"]) !== "";
  if (isSet === (tls !== undefined)) return;
  throw isSet
    ? new UsageError("This restore was begun with TLS: the QEMU takes no other connection", {
        hint: "give the credentials again: --tls-creds-x509 or --tls-psk",
      })
    : new UsageError("This restore was begun without TLS, and goes on without it", {
        hint: "leave the credentials out",
      });
}

/**
 * Checks ramport's own files before a QEMU is touched.
 *
 * @throws As `loadTlsCredentials`.
 */
export function checkTls(tls: TlsCredentials | undefined, endpoint: TlsEndpoint): void {
  if (tls !== undefined) loadTlsCredentials(tls, endpoint);
}

/**
 * The credentials for connecting to a QEMU: over a Unix socket there is no host to find in the server's certificate, so it is
 * the name in the certificate that QEMU takes from the same folder.
 */
export function withHostname(tls: TlsCredentials, via: SocketUri | undefined): TlsCredentials {
  if (tls.kind === "psk" || tls.hostname !== undefined || via?.kind === "tcp") return tls;
  const hostname = nameOfServerCertificate(tls);
  return hostname === undefined ? tls : { ...tls, hostname };
}

/** QEMU's `tls-hostname`; empty lets it take the address's host, or is of no use to it. */
function hostnameForQemu({ abilities, via }: TlsWithQemu, tls: TlsCredentials): string {
  const set = textOf(abilities.parameters["tls-hostname"]);
  if (tls.kind === "psk") return set;
  if (tls.hostname !== undefined) return tls.hostname;
  return set !== "" || via?.kind === "tcp" ? set : (nameOfServerCertificate(tls) ?? "");
}

function withoutTls(
  own: string,
  via: SocketUri | undefined,
  onMessage: ((message: string) => void) | undefined,
): void {
  if (via?.kind === "tcp") {
    throw new MachineError("not-capable", `The QEMU is set to migrate with TLS (tls-creds is ${own})`, {
      hint: "give ramport credentials too: --tls-creds-x509 or --tls-psk; or clear tls-creds in the QEMU",
    });
  }
  onMessage?.(`The QEMU's TLS credentials (${own}) are not used: the migration stays on this machine`);
}

/** Arguments of `object-add` without `id` and `endpoint`, and the folder that QEMU reads. */
function objectFor(
  tls: TlsCredentials,
  endpoint: TlsEndpoint,
): {
  readonly arguments: Readonly<Record<string, unknown>> & { readonly "qom-type": string };
  readonly folder: string;
} {
  if (tls.kind === "x509") return x509ObjectFor(tls);
  const file = pskFilePath(tls);
  if (path.basename(file) !== PSK_FILE) {
    throw new UsageError(`QEMU reads pre-shared keys from a file of the name ${PSK_FILE} only`, {
      path: file,
      hint: "name it so, in a folder of its own",
    });
  }
  const folder = path.dirname(path.resolve(file));
  const username = endpoint === "client" ? { username: tls.username ?? DEFAULT_PSK_USERNAME } : {};
  return { arguments: { "qom-type": "tls-creds-psk", dir: folder, ...username }, folder };
}

function x509ObjectFor({ folder, verifyPeer }: X509Credentials): ReturnType<typeof objectFor> {
  const dir = path.resolve(folder);
  return {
    arguments: { "qom-type": "tls-creds-x509", dir, "verify-peer": verifyPeer ?? true },
    folder: dir,
  };
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}
