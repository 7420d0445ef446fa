import { parseMigrationUri } from "../../channels/uri.js";
import { printable } from "../../errors/index.js";
import { receiveSnapshot, type ReceiveSnapshotOptions } from "../../session/receive.js";
import { type CommonOptions, printResult, withContext } from "../context.js";
import { bytes } from "../format.js";

/** `ramport receive`. */
export async function receive(
  uri: string,
  output: string,
  options: CommonOptions &
    Pick<ReceiveSnapshotOptions, "replace" | "targetPageSize" | "channels" | "multifdSync" | "directIo">,
): Promise<void> {
  const parsed = parseMigrationUri(uri);
  const result = await withContext(options, (context) =>
    receiveSnapshot(parsed, output, {
      ...options,
      ...context,
      onListening: (listeningUri) => context.onMessage(`Waiting for a migration to ${listeningUri}`),
    }),
  );
  const { machine, ramBytes, fileBytes, allocatedBytes, receivedBytes } = result;
  printResult(options, result, [
    `Received ${printable(machine)} with ${bytes(ramBytes)} of RAM (${bytes(receivedBytes)} of stream) into ${output}`,
    `The file has ${bytes(fileBytes)} and takes ${bytes(allocatedBytes)} on disk`,
  ]);
}
