import { UsageError } from "../errors/index.js";

/** Where a migration comes from or goes to: QEMU's migration URIs, and `-` for standard input or output. */
export type MigrationUri =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "fd"; readonly fd: number }
  | { readonly kind: "file"; readonly path: string; readonly offset: number }
  | { readonly kind: "stdio" };

/**
 * Parses `unix:PATH`, `tcp:HOST:PORT` (with `[..]` around an IPv6 address), `fd:N`, `file:PATH[,offset=N]` and `-`.
 * The offset takes the suffixes K, M and G, or 0x, as QEMU's does.
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
    }
  }
  throw new UsageError(`"${text}" is no migration URI`, {
    hint: "use unix:PATH, tcp:HOST:PORT, fd:N, file:PATH[,offset=N], or - for standard input",
  });
}

/**
 * Splits `PATH[,offset=N]`.
 *
 * @throws UsageError for an offset that is no number of bytes.
 */
export function parseFileWithOffset(text: string): { readonly path: string; readonly offset: number } {
  const match = /^(?<path>.*),offset=(?<offset>[^,]*)$/s.exec(text);
  if (match?.groups === undefined) return { path: text, offset: 0 };
  const { path = "", offset = "" } = match.groups;
  const parts = /^(?<value>0x[0-9a-f]+|\d+)(?<suffix>[kmg]?)$/i.exec(offset)?.groups;
  const scale = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }[parts?.suffix?.toLowerCase() ?? ""] ?? 1;
  const value = parts === undefined ? Number.NaN : Number(parts.value) * scale;
  if (path === "" || !Number.isSafeInteger(value)) {
    throw new UsageError(`"${text}" has no usable offset`, { hint: "write file:PATH,offset=BYTES" });
  }
  return { path, offset: value };
}

/** The URI as QEMU writes it. */
export function formatMigrationUri(uri: MigrationUri): string {
  switch (uri.kind) {
    case "unix":
      return `unix:${uri.path}`;
    case "tcp":
      return `tcp:${uri.host.includes(":") ? `[${uri.host}]` : uri.host}:${uri.port}`;
    case "fd":
      return `fd:${uri.fd}`;
    case "file":
      return uri.offset === 0 ? `file:${uri.path}` : `file:${uri.path},offset=${uri.offset}`;
    case "stdio":
      return "-";
  }
}

function parseTcp(rest: string, text: string): MigrationUri {
  const groups = /^(?:\[(?<bracketed>[^\]]+)\]|(?<host>[^:]*)):(?<port>\d{1,5})$/.exec(rest)?.groups;
  const port = Number(groups?.port);
  if (groups === undefined || !(port <= 65_535)) {
    throw new UsageError(`"${text}" is no migration URI`, { hint: "use tcp:HOST:PORT" });
  }
  return { kind: "tcp", host: groups.bracketed ?? groups.host ?? "", port };
}
