import { UsageError } from "../errors/index.js";

/** Where a migration comes from or goes to: QEMU's migration URIs, and `-` for standard input or output. */
export type MigrationUri =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "fd"; readonly fd: number }
  | { readonly kind: "file"; readonly path: string; readonly offset: number }
  /** A program and its arguments, as QMP's channels have it; in a URI it is a line for `/bin/sh -c`. */
  | { readonly kind: "exec"; readonly args: readonly string[] }
  | { readonly kind: "stdio" };

/** What QEMU runs the line of an `exec:` URI with. */
const SHELL = ["/bin/sh", "-c"] as const;

/**
 * Parses `unix:PATH`, `tcp:HOST:PORT` (with `[..]` around an IPv6 address), `fd:N`, `file:PATH[,offset=N]`,
 * `exec:COMMAND` and `-`.
 *
 * @throws UsageError when the text is none of these.
 */
export function parseMigrationUri(text: string): MigrationUri {
  if (text === "-") return { kind: "stdio" };
  const colon = text.indexOf(":");
  const rest = text.slice(colon + 1);
  if (colon > 0 && rest !== "") {
    switch (text.slice(0, colon)) {
      case "unix":
        return { kind: "unix", path: rest };
      case "tcp":
        return parseTcp(rest, text);
      case "fd":
        if (/^\d{1,9}$/.test(rest)) return { kind: "fd", fd: Number(rest) };
        break;
      case "file":
        return { kind: "file", ...parseFileWithOffset(rest) };
      case "exec":
        return { kind: "exec", args: [...SHELL, rest] };
    }
  }
  throw new UsageError(`"${text}" is no migration URI`, {
    hint: "use unix:PATH, tcp:HOST:PORT, fd:N, file:PATH[,offset=N], exec:COMMAND, or - for standard input",
  });
}

/** What stands between the path and the offset of a `file:` URI. A path that contains it cannot be written as a URI. */
const OFFSET_OPTION = ",offset=";

/**
 * Splits `PATH[,offset=N]` as QEMU does: at the first `,offset=`, with a number as its size options take it.
 *
 * @throws UsageError for an offset that is no number of bytes.
 */
export function parseFileWithOffset(text: string): { readonly path: string; readonly offset: number } {
  const at = text.indexOf(OFFSET_OPTION);
  if (at < 0) return { path: text, offset: 0 };
  const path = text.slice(0, at);
  const offset = parseSize(text.slice(at + OFFSET_OPTION.length));
  if (path === "" || offset === undefined) {
    throw new UsageError(`"${text}" has no usable offset`, { hint: "end it with ,offset=BYTES" });
  }
  return { path, offset };
}

const SIZE_SUFFIXES = "bkmgtpe";

/**
 * Reads a number of bytes as QEMU's `qemu_strtosz` does: decimal with a suffix from B to E and, where that scales, a
 * fraction; or hexadecimal without a suffix.
 *
 * @returns undefined for everything else, and above 2^53.
 */
function parseSize(text: string): number | undefined {
  const parts = /^(?:(?<hex>0x[0-9a-f]+)|(?<whole>\d*)(?:\.(?<fraction>\d*))?(?<suffix>[bkmgtpe]?))$/i.exec(
    text,
  )?.groups;
  if (parts === undefined) return undefined;
  const { hex, whole = "", fraction = "", suffix = "" } = parts;
  if (hex === undefined && whole === "" && fraction === "") return undefined;
  const scale = 1024 ** Math.max(0, SIZE_SUFFIXES.indexOf(suffix.toLowerCase()));
  const part = Number(`0.${fraction}0`);
  if (part > 0 && scale === 1) return undefined;
  const value = hex === undefined ? Number(whole) * scale + Math.round(part * scale) : Number(hex);
  return Number.isSafeInteger(value) ? value : undefined;
}

/**
 * The URI as QEMU reads it.
 *
 * @throws UsageError for a file whose path a URI cannot name.
 */
export function formatMigrationUri(uri: MigrationUri): string {
  switch (uri.kind) {
    case "unix":
      return `unix:${uri.path}`;
    case "tcp":
      return `tcp:${uri.host.includes(":") ? `[${uri.host}]` : uri.host}:${uri.port}`;
    case "fd":
      return `fd:${uri.fd}`;
    case "file":
      if (uri.path.includes(OFFSET_OPTION)) {
        throw new UsageError(`QEMU would take a part of the path for an offset`, {
          path: uri.path,
          hint: `use a path without "${OFFSET_OPTION}", by a symbolic link for one`,
        });
      }
      return uri.offset === 0 ? `file:${uri.path}` : `file:${uri.path},offset=${uri.offset}`;
    case "exec":
      return `exec:${commandLine(uri.args)}`;
    case "stdio":
      return "-";
  }
}

/** A line for the shell that runs the program with these arguments. */
function commandLine(args: readonly string[]): string {
  const [shell, option, line] = args;
  if (args.length === 3 && shell === SHELL[0] && option === SHELL[1] && line !== undefined) return line;
  const quoted = args.map((arg) =>
    /^[\w./:@%+,-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", String.raw`'\''`)}'`,
  );
  return `exec ${quoted.join(" ")}`;
}

function parseTcp(rest: string, text: string): MigrationUri {
  const groups = /^(?:\[(?<bracketed>[^\]]+)\]|(?<host>[^:]*)):(?<port>\d{1,5})$/.exec(rest)?.groups;
  const port = Number(groups?.port);
  if (groups === undefined || !(port <= 65_535)) {
    throw new UsageError(`"${text}" is no migration URI`, { hint: "use tcp:HOST:PORT" });
  }
  return { kind: "tcp", host: groups.bracketed ?? groups.host ?? "", port };
}
