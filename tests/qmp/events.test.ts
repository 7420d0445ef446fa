import { afterEach, expect, expectTypeOf, test, vi } from "vitest";
import { CancelledError, UsageError } from "../../src/errors/index.js";
import {
  isKnownMigrationStatus,
  isQmpEvent,
  type MigrationStatus,
  type QmpClient,
} from "../../src/qmp/index.js";
import { FakeMonitor, GREETING } from "./fake-monitor.js";

const opened: { client: QmpClient; monitor: FakeMonitor }[] = [];
afterEach(async () => {
  for (const { client, monitor } of opened.splice(0)) {
    await client.close();
    await monitor.stop();
  }
});

async function connected(): Promise<{ client: QmpClient; monitor: FakeMonitor }> {
  const monitor = await FakeMonitor.start();
  const pair = { client: await monitor.connect(), monitor };
  opened.push(pair);
  return pair;
}

/** Sends events, and returns once the client has seen them: its answers come in order. */
async function seen(client: QmpClient, send: () => void): Promise<void> {
  send();
  await client.execute("cont");
}

test("listeners get typed events until they leave", async () => {
  const { client, monitor } = await connected();
  const statuses: string[] = [];
  const stop = client.on("MIGRATION", (event) => {
    expectTypeOf(event.data.status).toEqualTypeOf<MigrationStatus>();
    statuses.push(event.data.status);
    expect(event.timestamp).toEqual({ seconds: 1700000000, microseconds: 42 });
  });
  await seen(client, () => monitor.sendEvent("MIGRATION", { status: "active", extra: 1 }));
  stop();
  await seen(client, () => monitor.sendEvent("MIGRATION", { status: "completed" }));
  expect(statuses).toEqual(["active"]);
});

test("an event in the packet that opens the connection is not lost", async () => {
  const monitor = await FakeMonitor.raw((socket) => {
    socket.write(GREETING);
    socket.once("data", () => {
      socket.write(
        '{"return": {}, "id": 1}\n{"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}\n',
      );
    });
  });
  const client = await monitor.connect();
  opened.push({ client, monitor });
  expect(await client.waitForEvent("STOP", undefined, { timeoutMs: 1000 })).toEqual({
    name: "STOP",
    data: {},
    timestamp: { seconds: -1, microseconds: -1 },
  });
});

test("a wait takes the first event that fits", async () => {
  const { client, monitor } = await connected();
  const done = client.waitForEvent("MIGRATION", ({ data }) => data.status === "completed");
  for (const status of ["setup", "active", "beyond", "completed"]) monitor.sendEvent("MIGRATION", { status });
  expect((await done).data).toEqual({ status: "completed" });
  expect(isKnownMigrationStatus("beyond")).toBe(false);
});

test("a wait ends with its limit, its signal, or its predicate's error", async () => {
  const { client, monitor } = await connected();
  await expect(client.waitForEvent("STOP", undefined, { timeoutMs: 10 })).rejects.toMatchObject({
    code: "timeout",
  });
  await expect(client.waitForEvent("STOP", undefined, { signal: AbortSignal.timeout(10) })).rejects.toThrow(
    CancelledError,
  );
  const broken = client.waitForEvent("STOP", () => {
    throw new RangeError("mine");
  });
  monitor.sendEvent("STOP");
  await expect(broken).rejects.toThrow(RangeError);
});

test("an iteration has every event from its call on, and ends when QEMU leaves", async () => {
  const { client, monitor } = await connected();
  const events = client.events();
  await seen(client, () => {
    monitor.sendEvent("NOVEL", { a: 1 });
    monitor.sendEvent("SHUTDOWN", { guest: false, reason: "host-qmp-quit" });
  });
  monitor.sockets[0]!.end();
  const names: string[] = [];
  for await (const event of events) {
    names.push(event.name);
    if (isQmpEvent(event, "SHUTDOWN")) expect(event.data.reason).toBe("host-qmp-quit");
  }
  expect(names).toEqual(["NOVEL", "SHUTDOWN"]);
});

test("an iteration that nobody reads holds its limit and then fails", async () => {
  const { client, monitor } = await connected();
  const events = client.events({ maxBuffered: 2 });
  await seen(client, () => {
    for (let i = 0; i < 5; i++) monitor.sendEvent("RESUME");
  });
  expect((await events.next()).value).toMatchObject({ name: "RESUME" });
  expect((await events.next()).done).toBe(false);
  await expect(events.next()).rejects.toThrow(/More than 2 events wait/);
  expect((await events.next()).done).toBe(true);
  expect(() => client.events({ maxBuffered: 0 })).toThrow(UsageError);
});

test("an iteration obeys its signal, also one that fired before", async () => {
  const { client } = await connected();
  const controller = new AbortController();
  const next = client.events({ signal: controller.signal }).next();
  controller.abort();
  await expect(next).rejects.toThrow(CancelledError);
  await expect(client.events({ signal: AbortSignal.abort() }).next()).rejects.toThrow(CancelledError);
});

test("a known event with data of the wrong shape is left out, and the connection goes on", async () => {
  const { client, monitor } = await connected();
  const wait = client.waitForEvent("MIGRATION");
  monitor.sendEvent("MIGRATION", { status: 3 });
  monitor.sendEvent("MIGRATION", { status: "active" });
  expect((await wait).data).toMatchObject({ status: "active" });
});

test("a listener that throws is reported as uncaught and stops nothing", async () => {
  const { client, monitor } = await connected();
  const uncaught: unknown[] = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.once("uncaughtException", (error) => uncaught.push(error));
  const second = vi.fn();
  client.on("STOP", () => {
    throw new RangeError("mine");
  });
  client.on("STOP", second);
  try {
    await seen(client, () => monitor.sendEvent("STOP"));
  } finally {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  }
  expect(second).toHaveBeenCalledOnce();
  expect(uncaught).toEqual([new RangeError("mine")]);
});
