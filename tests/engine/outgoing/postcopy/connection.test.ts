import { describe, expect, test } from "vitest";

import { PostcopyConnection } from "../../../../src/engine/outgoing/postcopy/connection.js";
import { ByteWriter, encodePong, encodeShut } from "../../../../src/wire/index.js";
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

describe("a destination that says that it failed", () => {
  const hear = async (say: (writer: ByteWriter) => void): Promise<PostcopyConnection> => {
    const { near, far } = bytePipe(() => Infinity);
    const connection = new PostcopyConnection({ main: near, returnPath: near }, PAGES, () => undefined);
    const ended = connection.shut();
    const writer = new ByteWriter();
    say(writer);
    await far.write(writer.finish());
    await far.close();
    await expect(ended).rejects.toThrow();
    return connection;
  };

  test("before its devices were loaded refuses the guest", async () => {
    const connection = await hear((writer) => {
      for (const value of [1, 2, 3]) encodePong(writer, value);
      encodeShut(writer, 1);
    });
    expect(connection.hasRefused).toBe(true);
  });

  test("after it may have run the guest refuses nothing, whatever else it said", async () => {
    const connection = await hear((writer) => {
      for (let value = 1000; value < 1100; value++) encodePong(writer, value);
      encodePong(writer, 0x42);
      encodeShut(writer, 1);
    });
    expect(connection.failure?.message).toMatch(/says that loading failed/);
    expect(connection.hasRefused).toBe(false);
  });

  test("without a word has said nothing", async () => {
    const connection = await hear((writer) => encodePong(writer, 3));
    expect(connection).toMatchObject({ hasRefused: false, isBroken: true });
  });
});
