import { UsageError, printable } from "../errors/index.js";
import type { MigrationChannel, MigrationTarget } from "../qapi/index.js";
import { isJsonObject, type JsonObject } from "../qapi/json-values.js";

type ArgumentType = "string" | "boolean" | "integer" | "array" | "object";

/** What a command, or a part of its arguments, takes; a name with `?` at its end may be absent. */
export type ArgumentTable = Readonly<Record<string, ArgumentType>>;

/**
 * Checks arguments against a table.
 *
 * @param prefix Where the arguments stand: `channels[0].`; empty for a command's own.
 * @throws UsageError in QEMU's words, naming the argument.
 */
export function checkArguments(args: JsonObject, table: ArgumentTable, prefix = ""): void {
  for (const [key, type] of Object.entries(table)) {
    const name = key.replace(/\?$/, "");
    const value = Object.hasOwn(args, name) ? args[name] : undefined;
    if (value === undefined) {
      if (key.endsWith("?")) continue;
      throw new UsageError(`Parameter '${prefix}${name}' is missing`);
    }
    if (!isOfType(value, type))
      throw new UsageError(`Invalid parameter type for '${prefix}${name}', expected: ${type}`);
  }
  const known = Object.keys(table).map((key) => key.replace(/\?$/, ""));
  const unexpected = Object.keys(args).find((name) => !known.includes(name));
  if (unexpected !== undefined)
    throw new UsageError(`Parameter '${prefix}${printable(unexpected)}' is unexpected`);
}

function isOfType(value: unknown, type: ArgumentType): boolean {
  switch (type) {
    case "array":
      return Array.isArray(value);
    case "object":
      return isJsonObject(value);
    case "integer":
      return Number.isSafeInteger(value);
    case "string":
    case "boolean":
      return typeof value === type;
  }
}

/** The members of a channel's address, by QAPI's `MigrationAddress` and `SocketAddress`. */
const ADDRESSES: Readonly<Record<string, ArgumentTable>> = {
  file: { transport: "string", filename: "string", offset: "integer" },
  exec: { transport: "string", args: "array" },
  rdma: { transport: "string", host: "string", port: "string" },
  "socket unix": { transport: "string", type: "string", path: "string" },
  "socket inet": { transport: "string", type: "string", host: "string", port: "string" },
  "socket vsock": { transport: "string", type: "string", cid: "string", port: "string" },
  "socket fd": { transport: "string", type: "string", str: "string" },
};

/**
 * Takes `uri` or `channels` from checked arguments of `migrate` and `migrate-incoming`.
 *
 * @throws UsageError when there is none or both, or a channel is not what QAPI says.
 */
export function targetFrom(args: JsonObject): MigrationTarget {
  const { uri, channels } = args;
  if ((uri === undefined) === (channels === undefined)) {
    throw new UsageError(
      uri === undefined
        ? "need either 'uri' or 'channels' argument"
        : "'uri' and 'channels' arguments are mutually exclusive",
    );
  }
  if (typeof uri === "string") return { uri };
  const list = Array.isArray(channels) ? (channels as readonly unknown[]) : [];
  for (const [index, channel] of list.entries()) checkChannel(channel, `channels[${index}]`);
  if (list.length === 0) throw new UsageError("need either 'uri' or 'channels' argument");
  // Checked member for member just now.
  return { channels: list as readonly MigrationChannel[] };
}

function checkChannel(channel: unknown, where: string): void {
  if (!isJsonObject(channel)) throw new UsageError(`Invalid parameter type for '${where}', expected: object`);
  checkArguments(channel, { "channel-type": "string", addr: "object" }, `${where}.`);
  const { "channel-type": type, addr } = channel;
  if (type !== "main" && type !== "cpr") throw notAccepted(`${where}.channel-type`, type);
  if (!isJsonObject(addr)) return;
  const place = `${where}.addr.`;
  const { transport } = addr;
  if (typeof transport !== "string") throw new UsageError(`Parameter '${place}transport' is missing`);
  if (transport === "socket" && typeof addr.type !== "string")
    throw new UsageError(`Parameter '${place}type' is missing`);
  const kind = transport === "socket" ? `socket ${String(addr.type)}` : transport;
  const table = Object.hasOwn(ADDRESSES, kind) ? ADDRESSES[kind] : undefined;
  if (table === undefined)
    throw notAccepted(
      transport === "socket" ? `${place}type` : `${place}transport`,
      transport === "socket" ? addr.type : transport,
    );
  checkArguments(addr, table, place);
  const { args } = addr;
  if (transport === "exec" && !(args as readonly unknown[]).every((arg) => typeof arg === "string"))
    throw new UsageError(`Invalid parameter type for '${place}args', expected: array of strings`);
}

function notAccepted(name: string, value: unknown): UsageError {
  return new UsageError(`Parameter '${name}' does not accept value '${printable(String(value))}'`);
}
