/**
 * A v86 whose guest runs in a thread of its own and goes over to a destination by postcopy. {@link startV86Source} starts it.
 *
 * @module
 */

import { parentPort, workerData } from "node:worker_threads";

import { connectSocket } from "../../src/channels/index.js";
import { OutgoingMigration, StreamTarget } from "../../src/engine/index.js";
import { OutgoingPostcopy } from "../../src/engine/outgoing/postcopy/outgoing-postcopy.js";
import { V86Host } from "../../src/hosts/v86/index.js";
import { DEFAULT_CAPABILITIES, DEFAULT_PARAMETERS } from "../../src/qapi/index.js";
import type { V86SourceData, V86SourceMessage, V86SourceOrder } from "./v86-source.js";

const { path, memoryBytes, multiboot } = workerData as V86SourceData;
const host = await V86Host.create({ memoryBytes, multiboot });
const parameters = { ...DEFAULT_PARAMETERS };
const post = (message: V86SourceMessage): void => parentPort?.postMessage(message);
host.onSerial((text) => post({ kind: "serial", text }));

async function migrate(): Promise<void> {
  const channel = await connectSocket({ path }, path);
  const postcopy = new OutgoingPostcopy(
    host,
    { main: channel, returnPath: channel },
    { parameters: () => parameters },
  );
  const target = new StreamTarget(channel, { zeroPages: true, postcopy: postcopy.preparation });
  const migration = new OutgoingMigration(host, target, {
    capabilities: { ...DEFAULT_CAPABILITIES, "return-path": true, "postcopy-ram": true },
    parameters: () => parameters,
    postcopy,
  });
  migration.startPostcopy();
  await migration.run();
  post({ kind: "sent", requests: migration.info.ram?.["postcopy-requests"] ?? 0 });
  await channel.close();
}

parentPort?.on("message", (order: V86SourceOrder) => {
  switch (order.kind) {
    case "run":
      void host.run();
      break;
    case "bandwidth":
      parameters["max-postcopy-bandwidth"] = order.bytesPerSecond;
      break;
    case "migrate":
      migrate().catch((error: unknown) => post({ kind: "failed", message: String(error) }));
      break;
    case "close":
      void host.destroy().then(() => parentPort?.close());
  }
});
post({ kind: "ready" });
