/**
 * A source that sends pages when it is asked.
 *
 * @module
 */

import { once } from "node:events";
import { Worker } from "node:worker_threads";

import { onTestFinished } from "vitest";

import type { SourceData, SourceOrder } from "./source-pages.js";

/** A source in another thread. */
export interface PageSource {
  order(what: SourceOrder): void;
  /** Resolves when the destination said that all is well, with the number of requests. */
  shut(): Promise<number>;
}

/** Starts one; it ends with the test. */
export async function startPageSource(workerData: SourceData): Promise<PageSource> {
  const url = new URL("./page-source-thread.ts", import.meta.url).href;
  const script = `import("tsx/esm/api").then(({ register }) => { register(); return import("${url}"); })`;
  const worker = new Worker(script, { workerData, eval: true });
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
