/**
 * The thread that serves missing pages: its entry. `PostcopyThread` starts it.
 *
 * @module
 */

import process from "node:process";
import { parentPort, workerData } from "node:worker_threads";

import { PostcopyListener } from "../../engine/incoming/postcopy/postcopy-listener.js";
import { assert } from "../../errors/index.js";
import { PostcopyServer } from "./postcopy-server.js";
import type { ThreadData, ThreadRequest } from "./thread-messages.js";

const port = parentPort;
assert(port !== null, "started as a thread");
const server = new PostcopyServer(
  workerData as ThreadData,
  (message) => port.postMessage(message),
  (start, connection, memory, events) => PostcopyListener.begin(start, memory, connection, events),
);
port.on("message", (request: ThreadRequest) => void server.take(request));
// A guest that waits must not wait for a thread that is gone.
process.on("uncaughtException", (error) => server.fail(error));
