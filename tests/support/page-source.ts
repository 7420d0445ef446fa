/**
 * A source that sends pages when it is asked.
 *
 * @module
 */

import { once } from "node:events";

import { onTestFinished } from "vitest";

import { startThread } from "./start-thread.js";
import type { SourceData, SourceOrder } from "./source-pages.js";

/** A source in another thread. */
export interface PageSource {
  order(what: SourceOrder): void;
  /** Resolves when the destination said that all is well, with the number of requests. */
  shut(): Promise<number>;
}

/** Starts one; it ends with the test. */
export async function startPageSource(workerData: SourceData): Promise<PageSource> {
  const worker = startThread(new URL("./page-source-thread.ts", import.meta.url), workerData);
  onTestFinished(async () => {
    worker.postMessage("close");
    await once(worker, "exit");
  });
  const shut = new Promise<number>((resolve) => {
    worker.on("message", (message: { kind: string; asked: number }) => {
      if (message.kind === "shut") resolve(message.asked);
    });
  });
  await once(worker, "message");
  return { order: (what) => worker.postMessage(what), shut: () => shut };
}
