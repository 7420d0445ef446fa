import net from "node:net";

import { CancelledError, throwIfAborted } from "../errors/index.js";
import { SocketChannel } from "./socket.js";
import { assertSocketPathFits } from "./socket-path.js";
import { systemError } from "./system-error.js";
import type { TlsCredentials } from "./tls-credentials.js";

/**
 * Connects to a listening socket.
 *
 * @param tls With it, the connection is one with TLS, and this side the client.
 * @throws UsageError for a path that is too long, or credentials that are no good; MachineError `io` when nobody listens
 *   there, `tls` or another one when the TLS handshake fails; CancelledError.
 */
export async function connectSocket(
  address: { readonly path: string } | { readonly host: string; readonly port: number },
  name: string,
  signal?: AbortSignal,
  tls?: TlsCredentials,
): Promise<SocketChannel> {
  throwIfAborted(signal);
  if (tls === undefined) return new SocketChannel(await connect(address, name, signal), name);
  const { prepareClient } = await import("./tls.js");
  const secure = prepareClient(tls, name, "host" in address ? address.host : undefined);
  return new SocketChannel(await secure(await connect(address, name, signal), signal), name);
}

function connect(
  address: { readonly path: string } | { readonly host: string; readonly port: number },
  name: string,
  signal: AbortSignal | undefined,
): Promise<net.Socket> {
  if ("path" in address) assertSocketPathFits(address.path);
  return new Promise((resolve, reject) => {
    const socket = net.connect({ ...address, allowHalfOpen: true, noDelay: true });
    const abort = (): void => {
      socket.destroy();
      reject(new CancelledError(undefined, signal?.reason));
    };
    signal?.addEventListener("abort", abort, { once: true });
    socket.once("error", (cause) => {
      signal?.removeEventListener("abort", abort);
      reject(systemError("Connecting", name, cause));
    });
    socket.once("connect", () => {
      signal?.removeEventListener("abort", abort);
      socket.removeAllListeners("error");
      resolve(socket);
    });
  });
}
