/**
 * Where a monitor listens, and how to get a socket to it.
 *
 * @module
 */
import { connect, type Socket } from "node:net";
import { MachineError, printable, UsageError } from "../errors/index.js";
import { waitWithin, type WaitLimits } from "./waiting.js";

/** Where a monitor listens: a Unix socket's path, or a TCP host and port. */
export type QmpAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** What to try when a monitor does not greet: the usual reason by far. */
export const BUSY_HINT =
  "another client probably holds this monitor: QEMU answers one client at a time, so close the other one or give QEMU a second -qmp";

// sun_path holds 108 bytes with the final zero; longer ones are cut or refused with an unspecific EINVAL.
const LONGEST_SOCKET_PATH = 107;

/**
 * Reads an address as QEMU's options write it: `unix:PATH`, `PATH` (with a slash in it), `tcp:HOST:PORT` or
 * `HOST:PORT`; IPv6 hosts stand in brackets, an empty host means `localhost`.
 *
 * @throws UsageError when the text is none of these
 */
export function parseQmpAddress(text: string): QmpAddress {
  if (/,(server|wait|nowait|reconnect|nodelay|ipv4|ipv6)\b/.test(text)) {
    throw new UsageError(`"${printable(text)}" has options of QEMU's -qmp in it`, {
      hint: "give the part before the first comma",
    });
  }
  if (text.startsWith("unix:")) return pathAddress(text.slice("unix:".length), text);
  const explicitTcp = text.startsWith("tcp:");
  if (!explicitTcp && text.includes("/")) return pathAddress(text, text);
  const match = /^(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:[\]/]*)):(\d{1,5})$/.exec(
    explicitTcp ? text.slice(4) : text,
  );
  const port = Number(match?.[3]);
  if (match === null || port < 1 || port > 65535) {
    throw new UsageError(`"${printable(text)}" is not the address of a monitor`, {
      hint: "write unix:PATH, a path with a slash, tcp:HOST:PORT or HOST:PORT",
    });
  }
  const host = match[1] ?? match[2] ?? "";
  return { host: host === "" ? "localhost" : host, port };
}

/** The address as {@link parseQmpAddress} reads it, safe to print. */
export function formatQmpAddress(address: QmpAddress): string {
  if ("path" in address) return `unix:${printable(address.path)}`;
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `tcp:${printable(host)}:${address.port}`;
}

/**
 * Opens a socket to the address.
 *
 * @throws MachineError `io` (cause: the system's error) when there is no way in, `timeout` when the peer does not
 *   answer; CancelledError; UsageError for a path longer than a socket's address can hold
 */
export async function openSocket(address: QmpAddress, limits: WaitLimits): Promise<Socket> {
  if ("path" in address && Buffer.byteLength(address.path) > LONGEST_SOCKET_PATH) {
    throw new UsageError("The path is too long for a Unix socket", {
      path: address.path,
      expected: `at most ${LONGEST_SOCKET_PATH} bytes`,
      actual: `${Buffer.byteLength(address.path)} bytes`,
      hint: "use a relative path or a symbolic link to the directory",
    });
  }
  const where = formatQmpAddress(address);
  return waitWithin<Socket>(
    limits,
    (ms) => new MachineError("timeout", `Connecting to ${where} took longer than ${ms} ms`, placeOf(address)),
    ({ resolve, reject }) => {
      const socket =
        "path" in address ? connect({ path: address.path }) : connect({ ...address, noDelay: true });
      let open = false;
      const onConnect = (): void => {
        open = true;
        resolve(socket);
      };
      socket.once("connect", onConnect);
      socket.once("error", (cause) => reject(connectError(address, cause)));
      return () => {
        socket.removeListener("connect", onConnect);
        if (open) return;
        // A late error of the socket given up must not become an uncaught one.
        socket.on("error", () => undefined);
        socket.destroy();
      };
    },
  );
}

function pathAddress(path: string, text: string): QmpAddress {
  if (path === "" || path.includes("\0")) {
    throw new UsageError(`"${printable(text)}" names no socket`, { hint: "write unix:PATH" });
  }
  return { path };
}

function placeOf(address: QmpAddress): { path?: string } {
  return "path" in address ? { path: address.path } : {};
}

function connectError(address: QmpAddress, cause: NodeJS.ErrnoException): MachineError {
  const where = formatQmpAddress(address);
  const unix = "path" in address;
  const fail = (message: string, hint?: string): MachineError =>
    new MachineError("io", message, { ...placeOf(address), ...(hint === undefined ? {} : { hint }) }, cause);
  switch (cause.code) {
    case "ENOENT":
      return fail(
        `There is no socket at ${where}`,
        "is QEMU running, with -qmp unix:PATH,server=on,wait=off?",
      );
    case "ECONNREFUSED":
      return unix
        ? fail(`Nothing listens on ${where}`, "the file is no socket, or its QEMU is gone")
        : fail(`Nothing listens on ${where}`, "is QEMU running, with -qmp tcp:HOST:PORT,server=on,wait=off?");
    case "EACCES":
    case "EPERM":
      return fail(
        `No permission to connect to ${where}`,
        "connecting needs write permission on the socket and search permission on its directories",
      );
    case "EAGAIN":
      // The queue of waiting clients is full; QEMU's holds only one.
      return fail(`${where} takes no further client`, BUSY_HINT);
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return fail(`The host of ${where} is not known`);
    default:
      return fail(`Connecting to ${where} failed: ${printable(cause.message)}`);
  }
}
