import process from "node:process";

import { parseFileWithOffset, parseMigrationUri } from "../../channels/uri.js";
import { sendSnapshot, type SendSnapshotOptions } from "../../session/send.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";
import { type TlsFlags, tlsFrom } from "../tls-options.js";

/** `ramport send`. */
export async function send(
  file: string,
  uri: string,
  options: CommonOptions &
    TlsFlags &
    Omit<SendSnapshotOptions, "signal" | "onProgress" | "onMessage" | "streamOffset" | "tls">,
): Promise<void> {
  const parsed = parseMigrationUri(uri);
  const tls = tlsFrom(options);
  const { path, offset } = parseFileWithOffset(file);
  const result = await withContext(options, (context) =>
    sendSnapshot(path, parsed, { ...options, ...context, ...tls, streamOffset: offset }),
  );
  const end =
    result.confirmed === true ? "the destination has loaded it" : "nothing said whether it was loaded";
  const line = `Sent ${file} to ${uri}: ${bytes(result.sentBytes)}; ${end}`;
  // Standard output carries the stream itself.
  if (parsed.kind === "stdio") process.stderr.write(`${line}\n`);
  else printResult(options, result, [line]);
}
