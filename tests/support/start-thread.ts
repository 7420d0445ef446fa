/**
 * Threads of tests, which are TypeScript as the tests are.
 *
 * @module
 */

import { Worker } from "node:worker_threads";

/** Starts a module as a thread. */
export function startThread(url: URL, workerData: unknown): Worker {
  const script = `import("tsx/esm/api").then(({ register }) => { register(); return import("${url.href}"); })`;
  return new Worker(script, { workerData, eval: true });
}
