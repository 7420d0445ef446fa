/**
 * Two ends of a connection.
 *
 * @module
 */

import { onTestFinished } from "vitest";

import { connectSocket, type SocketChannel, SocketListener } from "../../src/channels/index.js";

/** Connects two ends over a Unix socket at the path; both are closed when the test has finished. */
export async function socketPair(path: string): Promise<{ near: SocketChannel; far: SocketChannel }> {
  const listener = await SocketListener.listen({ path }, "unix:s");
  const near = await connectSocket({ path }, "unix:s");
  const far = await listener.accept();
  await listener.close();
  onTestFinished(async () => {
    await near.close();
    await far.close();
  });
  return { near, far };
}
