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
  /** Resolves when it has done so: a connection that it was to break is closed then. */
  order(what: SourceOrder): Promise<void>;
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
  const ordered: (() => void)[] = [];
  const shut = new Promise<number>((resolve) => {
    worker.on("message", (message: { kind: string; asked: number }) => {
      if (message.kind === "shut") resolve(message.asked);
      if (message.kind === "done") ordered.shift()?.();
    });
  });
  await once(worker, "message");
  const order = (what: SourceOrder): Promise<void> =>
    new Promise((resolve) => {
      ordered.push(resolve);
      worker.postMessage(what);
    });
  return { order, shut: () => shut };
}
