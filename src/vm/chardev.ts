import { printable, UsageError } from "../errors/index.js";

/** What stands behind a serial port or a monitor: QEMU's character devices, as `-serial` and `-qmp` name them. */
export type Chardev =
  | { readonly kind: "null" }
  | { readonly kind: "stdio" }
  | { readonly kind: "file"; readonly path: string; readonly append: boolean }
  | SocketChardev;

/** A socket that is listened at for one client at a time. */
export type SocketChardev = (
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
) & {
  /** Whether the machine starts only when the first client has come. */
  readonly wait: boolean;
};

/**
 * Parses `null`, `none`, `stdio`, `file:PATH[,append=on]`, `unix:PATH` and `tcp:HOST:PORT`, the last two with QEMU's
 * `,server=on,wait=off`. A comma inside a path is written twice.
 *
 * Unlike in QEMU a socket is always listened at, and waits for its first client only where `wait=on` or `server=on`
 * without `wait` says so.
 *
 * @param option What is parsed, for messages: `-serial`.
 * @throws UsageError.
 */
export function parseChardev(text: string, option: string): Chardev {
  if (text === "null" || text === "none") return { kind: "null" };
  if (text === "stdio") return { kind: "stdio" };
  const [address = "", ...settings] = splitAtCommas(text);
  const colon = address.indexOf(":");
  const rest = address.slice(colon + 1);
  if (colon > 0 && rest !== "") {
    switch (address.slice(0, colon)) {
      case "file":
        return {
          kind: "file",
          path: rest,
          append: parseSettings(settings, ["append"], option).append ?? false,
        };
      case "unix":
        return { kind: "unix", path: rest, wait: parseServer(settings, option) };
      case "tcp":
        return { kind: "tcp", ...parseTcp(rest, text, option), wait: parseServer(settings, option) };
    }
  }
  throw notUnderstood(text, option);
}

/** {@link parseChardev}, for what has to be talked to: only sockets will do. */
export function parseSocketChardev(text: string, option: string): SocketChardev {
  const chardev = parseChardev(text, option);
  if (chardev.kind === "unix" || chardev.kind === "tcp") return chardev;
  throw new UsageError(`${option} takes a socket, not "${printable(text)}"`, {
    hint: "write unix:PATH,server=on,wait=off or tcp:HOST:PORT,server=on,wait=off",
  });
}

/** Cuts at commas that are not doubled, and makes one of each doubled one. */
export function splitAtCommas(text: string): string[] {
  return text
    .replaceAll(",,", "\0")
    .split(",")
    .map((part) => part.replaceAll("\0", ","));
}

function parseServer(settings: readonly string[], option: string): boolean {
  const { server, wait } = parseSettings(settings, ["server", "wait", "nodelay"], option);
  if (server === false) {
    throw new UsageError(`${option} always listens: it cannot connect to somebody who does`, {
      hint: "leave server=off out",
    });
  }
  return wait ?? server === true;
}

/** `name`, `name=on`, `name=off` and the old form `noname`. */
function parseSettings<N extends string>(
  settings: readonly string[],
  known: readonly N[],
  option: string,
): Partial<Record<N, boolean>> {
  const found: Partial<Record<N, boolean>> = {};
  for (const setting of settings) {
    const [word = "", value = "on"] = setting.split("=", 2);
    const negated = known.find((name) => word === `no${name}`);
    const name = negated ?? known.find((candidate) => candidate === word);
    if (name === undefined || !["on", "off"].includes(value)) {
      throw new UsageError(`${option} does not know the setting "${printable(setting)}"`);
    }
    found[name] = (value === "on") === (negated === undefined);
  }
  return found;
}

function parseTcp(
  rest: string,
  text: string,
  option: string,
): { readonly host: string; readonly port: number } {
  const groups = /^(?:\[(?<bracketed>[^\]]+)\]|(?<host>[^:]*)):(?<port>\d{1,5})$/.exec(rest)?.groups;
  const port = Number(groups?.port);
  if (groups === undefined || !(port <= 65_535)) throw notUnderstood(text, option);
  return { host: groups.bracketed ?? groups.host ?? "", port };
}

function notUnderstood(text: string, option: string): UsageError {
  return new UsageError(`${option} does not understand "${printable(text)}"`, {
    hint: "write null, stdio, file:PATH, unix:PATH or tcp:HOST:PORT",
  });
}
