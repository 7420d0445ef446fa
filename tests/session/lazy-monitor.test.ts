import { afterEach, expect, test } from "vitest";

import { MachineError } from "../../src/errors/index.js";
import { QmpClient } from "../../src/qmp/index.js";
import { Monitor } from "../../src/session/lazy-monitor.js";
import { FakeMonitor } from "../qmp/fake-monitor.js";

const monitors: FakeMonitor[] = [];
afterEach(async () => {
  for (const monitor of monitors.splice(0)) await monitor.stop();
});
const keep = (monitor: FakeMonitor): FakeMonitor => {
  monitors.push(monitor);
  return monitor;
};

const purpose = "look";
const SHORT = { tryMs: 20, pauseMs: 1 };

test("a monitor that another client has is waited for, for so long and no longer, and that is said once", async () => {
  const free = keep(await FakeMonitor.start());
  // It takes connections and does not greet.
  const busy = keep(await FakeMonitor.raw(() => undefined));
  const said: string[] = [];
  const monitor = new Monitor(
    await free.connect(),
    (limits) => QmpClient.connect(busy.path, limits),
    (message) => said.push(message),
    { ...SHORT, mostMs: 90 },
  );
  await monitor.release();
  await expect(monitor.client({ purpose })).rejects.toMatchObject({
    code: "timeout",
    message: expect.stringMatching(/monitor could not be had within 1 s to look/) as string,
  });
  expect(busy.sockets.length).toBeGreaterThan(2);
  expect(said).toEqual([
    expect.stringMatching(/^Waiting for the QEMU's monitor to look, for 1 s at most: another client has it/),
  ]);
  const cancel = new AbortController();
  const waiting = monitor.client({ purpose, signal: cancel.signal, mostMs: 60_000 });
  cancel.abort();
  await expect(waiting).rejects.toMatchObject({ name: "CancelledError" });
});

test("a monitor whose queue of clients is full is busy, too", async () => {
  const free = keep(await FakeMonitor.start());
  let tries = 0;
  const full = new MachineError(
    "io",
    "no further client",
    {},
    Object.assign(new Error(), { code: "EAGAIN" }),
  );
  const reconnect = (): Promise<QmpClient> => (tries++ < 2 ? Promise.reject(full) : free.connect());
  const monitor = new Monitor(await free.connect(), reconnect, undefined, SHORT);
  await monitor.release();
  expect(await monitor.client({ purpose })).toBe(monitor.connected);
  expect(tries).toBe(3);
});

test("a monitor that becomes free is taken; one that nobody listens at is not waited for", async () => {
  let tries = 0;
  const free = keep(await FakeMonitor.start());
  const busy = keep(await FakeMonitor.raw(() => undefined));
  const monitor = new Monitor(
    await free.connect(),
    (limits) => {
      const path = [busy.path, free.path][tries++] ?? `${free.path}.gone`;
      return QmpClient.connect(path, limits);
    },
    undefined,
    SHORT,
  );
  await monitor.release();
  const client = await monitor.client({ purpose });
  expect([tries, monitor.connected]).toEqual([2, client]);
  await monitor.release();
  await expect(monitor.client({ purpose })).rejects.toMatchObject({ code: "io" });
  expect(tries).toBe(3);
});

test("a connection that has ended is made anew; without a way to do so it stays what it is", async () => {
  const qemu = keep(await FakeMonitor.start());
  const first = await qemu.connect();
  const monitor = new Monitor(first, (limits) => qemu.connect(limits));
  const fixed = new Monitor(first, undefined);
  qemu.sockets[0]?.destroy();
  await first.closed;
  const second = await monitor.client({ purpose });
  expect(second).not.toBe(first);
  expect(await fixed.client({ purpose })).toBe(first);
  await monitor.close();
  expect(await second.closed).toBeUndefined();
});
