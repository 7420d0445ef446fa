import { PassThrough, Duplex } from "node:stream";
import { afterEach, describe, expect, expectTypeOf, test } from "vitest";
import { CancelledError, MachineError, UsageError } from "../../src/errors/index.js";
import {
  QmpClient,
  QmpCommandError,
  type MigrationInfo,
  type QmpConnectOptions,
} from "../../src/qmp/index.js";
import { FakeMonitor, GREETING, ok, reply, type Answer, type Request } from "./fake-monitor.js";

const monitors: FakeMonitor[] = [];
afterEach(async () => {
  for (const monitor of monitors.splice(0)) await monitor.stop();
});

async function started(answer?: Answer): Promise<FakeMonitor> {
  const monitor = await FakeMonitor.start(answer);
  monitors.push(monitor);
  return monitor;
}

async function connected(answer?: Answer, options?: QmpConnectOptions): Promise<[QmpClient, FakeMonitor]> {
  const monitor = await started(answer);
  return [await monitor.connect(options), monitor];
}

async function rawPeer(text: string, end = false): Promise<FakeMonitor> {
  const monitor = await FakeMonitor.raw((socket) => (end ? socket.end(text) : socket.write(text)));
  monitors.push(monitor);
  return monitor;
}

describe("connecting", () => {
  test("reads the version and enables nothing unasked", async () => {
    const [client, monitor] = await connected();
    expect(client.version).toEqual({ major: 10, minor: 0, micro: 2, package: "Test" });
    expect(monitor.requests[0]).toEqual({ execute: "qmp_capabilities", id: 1 });
    await client.close();
  });

  test("a greeting cut into bytes is read", async () => {
    const monitor = await FakeMonitor.raw((socket) => {
      socket.setNoDelay(true);
      socket.once("data", () => socket.write('{"return": {}, "id": 1}\n'));
      const send = (at: number): void => {
        socket.write(GREETING.slice(at, at + 7));
        if (at + 7 < GREETING.length) setTimeout(send, 1, at + 7);
      };
      send(0);
    });
    monitors.push(monitor);
    const client = await monitor.connect();
    expect(client.version.major).toBe(10);
    await client.close();
  });

  test("silence is blamed on another client", async () => {
    const monitor = await rawPeer("");
    const error = await monitor.connect({ timeoutMs: 50 }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(MachineError);
    expect(error).toMatchObject({ code: "timeout", data: { path: monitor.path } });
    expect(String(error)).toMatch(/sent no greeting.*another client probably holds this monitor/);
  });

  test.each([
    ["SSH-2.0-OpenSSH_9.2\r\n", /does not speak QMP \(found SSH/],
    ["QEVM\0\0\0\x03", /does not speak QMP/],
    ["QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) ", /human monitor/],
    ['{\r\n    "QMP": {\r\n', /-qmp-pretty/],
    ['{"QMP": {"version": {"qemu": {"major": "10"}}}}\n', /at "QMP\.version\.qemu\.major" \(expected number/],
  ])("%j is no greeting", async (text, message) => {
    const monitor = await rawPeer(text);
    const error = await monitor.connect().catch((e: unknown) => e);
    expect(error).toMatchObject({ code: "qmp" });
    expect(String(error)).toMatch(message);
  });

  test("an end before the greeting is a closed connection", async () => {
    const monitor = await rawPeer("", true);
    await expect(monitor.connect()).rejects.toMatchObject({
      code: "connection-closed",
      message: expect.stringMatching(/before its greeting/) as string,
    });
  });

  test("an abort ends the wait for the greeting, and one in advance even the attempt", async () => {
    const monitor = await rawPeer("");
    await expect(monitor.connect({ signal: AbortSignal.timeout(20) })).rejects.toThrow(CancelledError);
    const sockets = monitor.sockets.length;
    await expect(monitor.connect({ signal: AbortSignal.abort() })).rejects.toThrow(CancelledError);
    expect(monitor.sockets.length).toBe(sockets);
  });

  test("oob is enabled on request, and used where asked", async () => {
    const [client, monitor] = await connected(ok, { oob: true });
    await client.executeRaw("migrate-pause", undefined, { oob: true });
    expect(monitor.requests.slice(0, 2)).toEqual([
      { execute: "qmp_capabilities", arguments: { enable: ["oob"] }, id: 1 },
      { "exec-oob": "migrate-pause", id: 2 },
    ]);
    await client.close();
    const [plain] = await connected();
    await expect(plain.executeRaw("x", undefined, { oob: true })).rejects.toThrow(UsageError);
    await plain.close();
  });

  test("oob of a monitor without it is a missing capability", async () => {
    const monitor = await rawPeer(GREETING.replace('"oob"', ""));
    await expect(monitor.connect({ oob: true })).rejects.toMatchObject({ code: "not-capable" });
  });

  test("a stream that exists already will do", async () => {
    const fromQemu = new PassThrough();
    const toQemu = new PassThrough();
    toQemu.once("data", () => fromQemu.write('{"return": {}, "id": 1}\n'));
    fromQemu.write(GREETING);
    const client = await QmpClient.attach(Duplex.from({ readable: fromQemu, writable: toQemu }));
    expect(client.version.major).toBe(10);
    await client.close();
  });
});

describe("commands", () => {
  test("answers are matched by id, in whatever order they come", async () => {
    const waiting: Request[] = [];
    const [client] = await connected((request, socket) => {
      waiting.push(request);
      if (waiting.length < 3) return;
      for (const r of waiting.reverse()) reply(r, socket, { name: r.execute });
    });
    const names = await Promise.all(["a", "b", "c"].map((name) => client.executeRaw(name)));
    expect(names).toEqual([{ name: "a" }, { name: "b" }, { name: "c" }]);
    await client.close();
  });

  test("arguments are sent, answers are typed, unknown fields are no problem", async () => {
    const [client, monitor] = await connected((request, socket) =>
      reply(request, socket, {
        status: "hibernating",
        ram: { transferred: 1, remaining: 2, total: 3, mbps: 0.5, novel: {} },
        "new-in-2040": [],
      }),
    );
    const info = await client.execute("query-migrate");
    expectTypeOf(info).toEqualTypeOf<MigrationInfo>();
    expect(info).toEqual({
      status: "hibernating",
      ram: { transferred: 1, remaining: 2, total: 3, mbps: 0.5 },
    });
    await expect(client.execute("migrate", { uri: "unix:/x" })).resolves.toBeUndefined();
    expect(monitor.requests.at(-1)).toMatchObject({ execute: "migrate", arguments: { uri: "unix:/x" } });
    await client.close();
  });

  test("an answer of the wrong shape is an error that names the field", async () => {
    const [client] = await connected((request, socket) =>
      reply(request, socket, { status: "active", ram: { transferred: 1, remaining: "2", total: 3 } }),
    );
    await expect(client.execute("query-migrate")).rejects.toMatchObject({
      code: "qmp",
      message:
        'The answer to query-migrate does not have the expected form at "ram.remaining" (expected number, found "2")',
    });
    await client.close();
  });

  test("a refusal carries QEMU's class and words, and the connection lives on", async () => {
    const [client] = await connected((request, socket) => {
      if (request.execute === "query-uuid") reply(request, socket, { UUID: "u" });
      else {
        const error = { class: "CommandNotFound", desc: "no such \u001b[31mcommand" };
        socket.write(`${JSON.stringify({ error, id: request.id })}\n`);
      }
    });
    const error = await client.execute("stop").catch((e: unknown) => e);
    expect(error).toBeInstanceOf(QmpCommandError);
    expect(error).toBeInstanceOf(MachineError);
    expect(error).toMatchObject({ code: "qmp", command: "stop", qmpClass: "CommandNotFound" });
    expect((error as Error).message).toBe("QEMU refused stop: no such \\u{1b}[31mcommand [CommandNotFound]");
    expect(await client.execute("query-uuid")).toEqual({ UUID: "u" });
    await client.close();
  });

  test("abort and time limit stop the wait; the late answer is dropped", async () => {
    const late: (() => void)[] = [];
    const [client] = await connected((request, socket) => {
      if (request.execute === "stop") late.push(() => ok(request, socket));
      else {
        for (const send of late) send();
        reply(request, socket, { running: true, status: "running" });
      }
    });
    await expect(client.execute("stop", undefined, { timeoutMs: 20 })).rejects.toMatchObject({
      code: "timeout",
    });
    await expect(client.execute("stop", undefined, { signal: AbortSignal.timeout(20) })).rejects.toThrow(
      CancelledError,
    );
    expect(late.length).toBe(2);
    expect(await client.execute("query-status")).toEqual({ running: true, status: "running" });
    await client.close();
  });

  test("an abort in advance sends nothing", async () => {
    const [client, monitor] = await connected();
    await expect(client.execute("quit", undefined, { signal: AbortSignal.abort() })).rejects.toThrow(
      CancelledError,
    );
    await client.execute("stop");
    expect(monitor.requests.map((r) => r.execute)).toEqual(["qmp_capabilities", "stop"]);
    await client.close();
  });

  test.each([-1, NaN, 2 ** 31])("a time limit of %d ms is refused", async (timeoutMs) => {
    const [client] = await connected();
    await expect(client.execute("stop", undefined, { timeoutMs })).rejects.toThrow(UsageError);
    await client.close();
  });

  test("arguments that JSON cannot hold are refused", async () => {
    const [client] = await connected();
    await expect(client.executeRaw("x", { n: 1n })).rejects.toThrow(UsageError);
    await client.close();
  });
});

describe("the end of a connection", () => {
  test("the peer's end rejects everything under way, and what comes after", async () => {
    const [client] = await connected((_request, socket) => socket.end());
    await expect(Promise.all([client.execute("stop"), client.waitForEvent("STOP")])).rejects.toMatchObject({
      code: "connection-closed",
    });
    await expect(client.execute("cont")).rejects.toThrow(/closed the connection before cont was answered/);
    await expect(client.waitForEvent("RESUME")).rejects.toMatchObject({ code: "connection-closed" });
    expect(await client.closed).toMatchObject({ code: "connection-closed" });
  });

  test("close is idempotent and rejects what is under way", async () => {
    const [client] = await connected(() => undefined);
    const stop = expect(client.execute("stop")).rejects.toMatchObject({ code: "connection-closed" });
    await Promise.all([client.close(), client.close(), stop]);
    await client[Symbol.asyncDispose]();
    expect(await client.closed).toBeUndefined();
  });

  test("a line too long ends the connection", async () => {
    const [client] = await connected((_request, socket) => socket.write("x".repeat(5000)), {
      maxLineBytes: 4096,
    });
    await expect(client.execute("stop")).rejects.toMatchObject({
      code: "qmp",
      message: expect.stringMatching(/line that is too long/) as string,
    });
    expect(await client.closed).toMatchObject({ code: "qmp" });
  });

  test.each([
    "garbage\n",
    "42\n",
    '{"id": 2}\n',
    '{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n',
  ])("%j ends the connection", async (text) => {
    const [client] = await connected((_request, socket) => socket.write(text));
    await expect(client.execute("stop")).rejects.toMatchObject({ code: "qmp" });
    expect(await client.closed).toMatchObject({ code: "qmp" });
  });
});
