import { type MigrationUri, parseMigrationUri } from "../channels/index.js";
import { UsageError } from "../errors/index.js";

/** A migration URI that one side can listen at and the other connect to. */
export type SocketUri = Extract<MigrationUri, { readonly kind: "unix" | "tcp" }>;

/**
 * Parses the way that a migration is to travel, where the user chose it.
 *
 * @throws UsageError when it is no socket.
 */
export function parseVia(text: string): SocketUri {
  const uri = parseMigrationUri(text);
  if (uri.kind === "unix" || uri.kind === "tcp") return uri;
  throw new UsageError(`"${text}" is no socket to migrate over`, { hint: "use unix:PATH or tcp:HOST:PORT" });
}
