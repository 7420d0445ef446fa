import { describe, expect, test } from "vitest";

import { PostcopyConnection } from "../../../../src/engine/outgoing/postcopy/connection.js";
import { ByteWriter, encodeShut } from "../../../../src/wire/index.js";
import { bytePipe } from "../../../support/byte-pipe.js";

const PAGES = { targetPageSize: 4096, blocks: [] };

describe("a destination that has said its last word", () => {
  const connect = (): { connection: PostcopyConnection; shut: () => Promise<void> } => {
    const { near, far } = bytePipe(() => Infinity);
    const connection = new PostcopyConnection({ main: near, returnPath: near }, PAGES, () => undefined);
    const writer = new ByteWriter();
    encodeShut(writer, 0);
    return { connection, shut: () => far.write(writer.finish()) };
  };

  test("leaves nobody waiting for another one", async () => {
    const { connection, shut } = connect();
    const waiting = [connection.pong(1), connection.receivedBitmap("pc.ram"), connection.resumeAck()];
    const outcomes = Promise.allSettled(waiting);
    await shut();
    for (const outcome of await outcomes) {
      expect(outcome).toMatchObject({ status: "rejected", reason: { code: "migration-failed" } });
    }
    connection.close();
  });

  test("is not waited for again", async () => {
    const { connection, shut } = connect();
    await Promise.all([shut(), connection.shut()]);
    await expect(connection.receivedBitmap("pc.ram")).rejects.toMatchObject({ code: "migration-failed" });
    connection.close();
  });
});
