import { parseMigrationUri } from "../../channels/uri.js";
import { printable } from "../../errors/index.js";
import { receiveSnapshot, type ReceiveSnapshotOptions } from "../../session/receive.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";
import { type TlsFlags, tlsFrom } from "../tls-options.js";

/** `ramport receive`. */
export async function receive(
  uri: string,
  output: string,
  options: CommonOptions &
    TlsFlags &
    Pick<ReceiveSnapshotOptions, "replace" | "targetPageSize" | "channels" | "multifdSync" | "directIo">,
): Promise<void> {
  const parsed = parseMigrationUri(uri);
  const tls = tlsFrom(options);
  const result = await withContext(options, (context) =>
    receiveSnapshot(parsed, output, {
      ...options,
      ...context,
      ...tls,
      onListening: (listeningUri) => context.onMessage(`Waiting for a migration to ${listeningUri}`),
    }),
  );
  const { machine, ramBytes, fileBytes, allocatedBytes, receivedBytes } = result;
  printResult(options, result, [
    `Received ${printable(machine)} with ${bytes(ramBytes)} of RAM (${bytes(receivedBytes)} of stream) into ${output}`,
    `The file has ${bytes(fileBytes)} and takes ${bytes(allocatedBytes)} on disk`,
  ]);
}
