import { type MigrationUri, parseMigrationUri } from "../../channels/index.js";
import { UsageError } from "../../errors/index.js";
import type { MigrationAddress, MigrationTarget } from "../../qapi/index.js";

/**
 * What a QMP client names as the way of a migration: a URI, or one main channel.
 *
 * @throws UsageError for what is no such way, and for transports that ramport does not have.
 */
export function resolveAddress({ uri, channels }: MigrationTarget): MigrationUri {
  if (uri !== undefined) {
    if (uri === "-") throw new UsageError("A machine's own standard input and output are no migration URI");
    return parseMigrationUri(uri);
  }
  const [channel, second] = channels;
  if (channel === undefined || second !== undefined || channel["channel-type"] !== "main") {
    throw new UsageError("A migration has exactly one channel, of the type main");
  }
  return resolveChannel(channel.addr);
}

function resolveChannel(address: MigrationAddress): MigrationUri {
  switch (address.transport) {
    case "file":
      return { kind: "file", path: address.filename, offset: address.offset };
    case "exec":
      return { kind: "exec", args: address.args };
    case "rdma":
      throw new UsageError("Migration over RDMA is not supported", { hint: "use a socket" });
    case "socket":
      return resolveSocket(address);
  }
}

function resolveSocket(address: MigrationAddress & { readonly transport: "socket" }): MigrationUri {
  switch (address.type) {
    case "unix":
      return { kind: "unix", path: address.path };
    case "inet":
      return parseMigrationUri(
        `tcp:${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`,
      );
    case "fd":
      return parseMigrationUri(`fd:${address.str}`);
    case "vsock":
      throw new UsageError("Migration over vsock is not supported", { hint: "use a unix or TCP socket" });
  }
}
