/**
 * A v86 in another thread, to be migrated into this one.
 *
 * @module
 */

import { once } from "node:events";

import { onTestFinished } from "vitest";

import { SerialReport } from "../../guests/serial-report.js";
import { startThread } from "./start-thread.js";

/** What machine it is, and where it migrates to: a Unix socket's path. */
export interface V86SourceData {
  readonly path: string;
  readonly memoryBytes: number;
  readonly multiboot: Uint8Array;
}

/** What it can be told. */
export type V86SourceOrder =
  | { readonly kind: "run" | "migrate" | "close" }
  /** For pages that nobody asked for; 0 is unlimited. */
  | { readonly kind: "bandwidth"; readonly bytesPerSecond: number };

/** What it says. */
export type V86SourceMessage =
  | { readonly kind: "ready" }
  | { readonly kind: "serial"; readonly text: string }
  | { readonly kind: "sent"; readonly requests: number }
  | { readonly kind: "failed"; readonly message: string };

/** A machine in another thread. */
export interface V86Source {
  /** What its guest said. */
  readonly report: SerialReport;
  order(order: V86SourceOrder): void;
  /** Resolves when all was sent and the destination has it. */
  sent(): Promise<void>;
}

/** Starts it; it ends with the test. */
export async function startV86Source(data: V86SourceData): Promise<V86Source> {
  const worker = startThread(new URL("./v86-source-thread.ts", import.meta.url), data);
  const report = new SerialReport();
  const sent = new Promise<void>((resolve, reject) => {
    worker.on("message", (message: V86SourceMessage) => {
      if (message.kind === "serial") report.push(message.text);
      else if (message.kind === "sent") resolve();
      else if (message.kind === "failed") reject(new Error(message.message));
    });
  });
  sent.catch(() => undefined);
  const order = (wanted: V86SourceOrder): void => worker.postMessage(wanted);
  onTestFinished(async () => {
    order({ kind: "close" });
    await once(worker, "exit");
  });
  await once(worker, "message");
  return { report, order, sent: () => sent };
}
