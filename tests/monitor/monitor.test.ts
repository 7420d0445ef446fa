import net from "node:net";
import { createInterface } from "node:readline";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { MachineError } from "../../src/errors/index.js";
import {
  type MachineEvent,
  Monitor,
  type MonitoredMachine,
  type MonitoredMigration,
  monitorVersion,
} from "../../src/monitor/index.js";
import {
  CAPABILITY_NAMES,
  DEFAULT_CAPABILITIES,
  DEFAULT_PARAMETERS,
  type KnownRunState,
} from "../../src/qapi/index.js";
import { QmpClient, QmpCommandError } from "../../src/qmp/index.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** A machine that notes what is asked of it. */
class NotingMachine implements MonitoredMachine {
  readonly name = "test vm";
  readonly uuid = undefined;
  readonly memoryBytes = 64 << 20;
  runState: KnownRunState = "running";
  readonly calls: unknown[][] = [];
  readonly listeners = new Set<(event: MachineEvent) => void>();
  capabilities = DEFAULT_CAPABILITIES;
  stopping: Promise<void> = Promise.resolve();
  readonly migration: MonitoredMigration;

  constructor() {
    const note = (...call: unknown[]): void => void this.calls.push(call);
    const capabilities = (): typeof DEFAULT_CAPABILITIES => this.capabilities;
    this.migration = {
      get capabilities() {
        return capabilities();
      },
      parameters: DEFAULT_PARAMETERS,
      setCapabilities: (changes) => {
        note("setCapabilities", changes);
        this.capabilities = { ...this.capabilities, ...changes };
      },
      setParameters: (changes) => note("setParameters", changes),
      info: () => ({ status: "active" }),
      migrate: (target) => {
        note("migrate", target);
        return Promise.reject(new MachineError("io", "Opening failed: /nowhere does not exist"));
      },
      incoming: (target, exitOnError) => {
        note("incoming", target, exitOnError);
        return Promise.resolve();
      },
      cancel: () => note("cancel"),
      continue: (state) => note("continue", state),
      startPostcopy: () => note("startPostcopy"),
      pause: () => note("pause"),
      resume: (target) => {
        note("resume", target);
        return Promise.resolve();
      },
      recover: (target) => {
        note("recover", target);
        return Promise.resolve();
      },
    };
  }

  async stop(): Promise<void> {
    await this.stopping;
    this.runState = "paused";
    this.emit({ name: "STOP" });
  }

  cont(): Promise<void> {
    this.runState = "running";
    this.emit({ name: "RESUME" });
    return Promise.resolve();
  }

  reset(): void {
    throw new MachineError("not-capable", "This machine cannot be reset");
  }

  wakeUp(): void {
    this.runState = "running";
    this.emit({ name: "WAKEUP" });
  }

  quit(): void {
    this.emit({ name: "SHUTDOWN", data: { guest: false, reason: "host-qmp-quit" } });
  }

  onEvent(listener: (event: MachineEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  emit(event: MachineEvent): void {
    for (const listener of this.listeners) listener(event);
  }
}

let machine: NotingMachine;
let monitor: Monitor;
let server: net.Server;
let path: string;
let open: net.Socket[];

beforeEach(async () => {
  machine = new NotingMachine();
  monitor = new Monitor(machine);
  path = workDir.file("qmp");
  open = [];
  server = net.createServer({ allowHalfOpen: true }, (socket) => void monitor.serve(socket));
  await new Promise<void>((resolve) => server.listen(path, resolve));
});

afterEach(async () => {
  await monitor.close();
  for (const socket of open) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
});

/** A client that says what it likes, and reads the answers as they are. */
interface RawClient {
  readonly socket: net.Socket;
  next(): Promise<Record<string, unknown>>;
  /** Sends, and reads one message. */
  ask(text: string | object): Promise<Record<string, unknown>>;
}

async function raw(negotiate = true): Promise<RawClient> {
  const socket = net.connect({ path, allowHalfOpen: true });
  open.push(socket);
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  const next = async (): Promise<Record<string, unknown>> => {
    const line = await lines.next();
    if (line.done === true) return { closed: true };
    return JSON.parse(line.value) as Record<string, unknown>;
  };
  const ask = (text: string | object): Promise<Record<string, unknown>> => {
    socket.write(typeof text === "string" ? text : JSON.stringify(text));
    return next();
  };
  const client = { socket, next, ask };
  expect(await next()).toEqual({ QMP: { version: monitorVersion(), capabilities: [] } });
  if (negotiate) expect(await ask({ execute: "qmp_capabilities" })).toEqual({ return: {} });
  return client;
}

const connect = (): Promise<QmpClient> => QmpClient.connect(path);

describe("ramport's own client", () => {
  test("is greeted with the version whose commands there are, and a package that tells it from a QEMU", async () => {
    await using qmp = await connect();
    expect(qmp.version).toEqual({
      major: 11,
      minor: 1,
      micro: 0,
      package: expect.stringMatching(/^ramport-\d+\.\d+\.\d+/) as string,
    });
    expect(await qmp.execute("query-version")).toEqual(qmp.version);
    expect(qmp.capabilities).toEqual([]);
  });

  test("gets typed answers to what it knows", async () => {
    await using qmp = await connect();
    expect(await qmp.execute("query-status")).toEqual({ running: true, status: "running" });
    expect(await qmp.execute("query-name")).toEqual({ name: "test vm" });
    expect(await qmp.execute("query-uuid")).toEqual({ UUID: "00000000-0000-0000-0000-000000000000" });
    expect(await qmp.execute("query-memory-size-summary")).toMatchObject({ "base-memory": 64 << 20 });
    expect(await qmp.execute("query-migrate")).toEqual({ status: "active" });
    const capabilities = await qmp.execute("query-migrate-capabilities");
    expect(capabilities.map(({ capability }) => capability)).toEqual(CAPABILITY_NAMES);
    expect(await qmp.execute("query-migrate-parameters")).toMatchObject({ "downtime-limit": 300 });
    const commands = (await qmp.execute("query-commands")).map(({ name }) => name);
    expect(commands).toContain("migrate");
    expect(commands).toContain("qmp_capabilities");
  });

  test("sets what the machine is told, typed and checked", async () => {
    await using qmp = await connect();
    await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "xbzrle", state: true }] });
    await qmp.execute("migrate-set-parameters", { "max-bandwidth": 5 });
    await qmp.execute("migrate-continue", { state: "pre-switchover" });
    await qmp.execute("migrate_cancel");
    expect(machine.calls).toEqual([
      ["setCapabilities", { xbzrle: true }],
      ["setParameters", { "max-bandwidth": 5 }],
      ["continue", "pre-switchover"],
      ["cancel"],
    ]);
    await expect(
      qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "warp", state: true }] }),
    ).rejects.toThrow(/warp/);
    await expect(qmp.execute("migrate-set-parameters", { "downtime-limit": -1 })).rejects.toThrow(
      /downtime-limit/,
    );
    expect(machine.calls).toHaveLength(4);
  });

  test("hears events with their time, and what the machine refuses in its own words", async () => {
    await using qmp = await connect();
    const stopped = qmp.waitForEvent("STOP", undefined, { timeoutMs: 5000 });
    await qmp.execute("stop");
    const { timestamp } = await stopped;
    expect(Math.abs(timestamp.seconds - Date.now() / 1000)).toBeLessThan(60);
    expect(timestamp.microseconds).toBeLessThan(1_000_000);
    expect(await qmp.execute("query-status")).toEqual({ running: false, status: "paused" });
    const refusal: unknown = await qmp.executeRaw("system_reset").catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(QmpCommandError);
    expect(refusal).toMatchObject({ qmpClass: "GenericError", desc: "This machine cannot be reset" });
  });

  test("migrates by a URI or by channels; a machine that cannot is not asked to", async () => {
    await using qmp = await connect();
    await expect(qmp.execute("migrate", { uri: "file:/nowhere" })).rejects.toThrow(/nowhere/);
    const addr = { transport: "socket", type: "inet", host: "h", port: "1" } as const;
    const channels = [{ "channel-type": "main", addr }] as const;
    await expect(qmp.execute("migrate", { channels })).rejects.toThrow();
    expect(machine.calls).toEqual([
      ["migrate", { uri: "file:/nowhere" }],
      ["migrate", { channels }],
    ]);
    await expect(qmp.execute("migrate-incoming", { uri: "unix:/x" })).rejects.toThrow(/-incoming/);
    machine.runState = "inmigrate";
    await expect(qmp.execute("migrate", { uri: "unix:/x" })).rejects.toThrow(/waiting for an incoming/);
    await qmp.execute("migrate-incoming", { uri: "unix:/x", "exit-on-error": false });
    await qmp.execute("migrate-incoming", { uri: "unix:/y" });
    machine.runState = "postmigrate";
    await expect(qmp.execute("migrate", { uri: "unix:/x" })).rejects.toThrow(/previous migration/);
    expect(machine.calls.slice(2)).toEqual([
      ["incoming", { uri: "unix:/x" }, false],
      ["incoming", { uri: "unix:/y" }, true],
    ]);
  });

  test("starts, breaks and mends a postcopy migration", async () => {
    await using qmp = await connect();
    await qmp.executeRaw("migrate-start-postcopy");
    await qmp.executeRaw("migrate-pause");
    // A source after its guest has gone is in postmigrate or finish-migrate: what can be resumed the migration knows.
    machine.runState = "finish-migrate";
    await qmp.executeRaw("migrate", { uri: "unix:/again", resume: true });
    await qmp.executeRaw("migrate-recover", { uri: "unix:/again" });
    await expect(qmp.executeRaw("migrate-recover", {})).rejects.toThrow(/'uri' is missing/);
    await expect(qmp.executeRaw("migrate", { resume: true })).rejects.toThrow(/need either 'uri'/);
    expect(machine.calls).toEqual([
      ["startPostcopy"],
      ["pause"],
      ["resume", { uri: "unix:/again" }],
      ["recover", { uri: "unix:/again" }],
    ]);
  });

  test("sees the end of the machine, with the answer to quit before it", async () => {
    await using qmp = await connect();
    const shutDown = qmp.waitForEvent("SHUTDOWN", undefined, { timeoutMs: 5000 });
    await qmp.execute("quit");
    expect((await shutDown).data).toEqual({ guest: false, reason: "host-qmp-quit" });
    await monitor.close();
    await qmp.closed;
  });
});

describe("a client that speaks by hand", () => {
  test("has to negotiate first, once, and hears no events before", async () => {
    const client = await raw(false);
    const early = await client.ask({ execute: "query-status", id: 1 });
    expect(early).toEqual({
      id: 1,
      error: {
        class: "CommandNotFound",
        desc: "Expecting capabilities negotiation with 'qmp_capabilities'",
      },
    });
    machine.emit({ name: "STOP" });
    expect(await client.ask({ execute: "qmp_capabilities", arguments: { enable: ["oob"] } })).toMatchObject({
      error: { class: "GenericError", desc: expect.stringContaining("oob") as string },
    });
    expect(await client.ask({ execute: "qmp_capabilities", arguments: { enable: [] } })).toEqual({
      return: {},
    });
    expect(await client.ask({ execute: "qmp_capabilities" })).toMatchObject({
      error: { class: "CommandNotFound" },
    });
    machine.emit({ name: "RESUME" });
    expect(await client.next()).toMatchObject({ event: "RESUME" });
  });

  test.each<[string, unknown]>([
    ["a number", 5],
    ["a text", "five"],
    ["an object", { a: [null] }],
    ["null", null],
  ])("gets its id back: %s", async (_, id) => {
    const client = await raw();
    expect(await client.ask({ execute: "query-status", id })).toHaveProperty("id", id);
    expect(await client.ask({ execute: "nope", id })).toEqual({
      id,
      error: { class: "CommandNotFound", desc: "The command nope has not been found" },
    });
  });

  test.each<[string, string | object, string]>([
    ["no JSON", "hello\n", "must be a JSON object"],
    ["a list", "[1]", "must be a JSON object"],
    ["bad JSON", '{"execute" "x"}', "JSON parse error"],
    ["no command", { foo: 1 }, "member 'foo' is unexpected"],
    ["nothing", {}, "lacks member 'execute'"],
    ["a command that is no text", { execute: 5 }, "'execute' must be a string"],
    ["arguments that are no object", { execute: "stop", arguments: [] }, "'arguments' must be an object"],
    ["out of band", { "exec-oob": "stop" }, "member 'exec-oob' is unexpected"],
    ["a command of Object's", { execute: "constructor" }, "The command constructor has not been found"],
    ["too many arguments", { execute: "stop", arguments: { now: true } }, "Parameter 'now' is unexpected"],
    ["a missing argument", { execute: "migrate-continue" }, "Parameter 'state' is missing"],
    [
      "an argument of another type",
      { execute: "migrate", arguments: { uri: 5 } },
      "Invalid parameter type for 'uri', expected: string",
    ],
    ["no way at all", { execute: "migrate" }, "need either 'uri' or 'channels' argument"],
    ["no channel", { execute: "migrate", arguments: { channels: [] } }, "need either 'uri' or 'channels'"],
    [
      "two ways",
      { execute: "migrate", arguments: { uri: "x", channels: [] } },
      "'uri' and 'channels' arguments are mutually exclusive",
    ],
    [
      "a channel without an address",
      { execute: "migrate", arguments: { channels: [{ "channel-type": "main" }] } },
      "Parameter 'channels[0].addr' is missing",
    ],
    [
      "a channel of an unknown kind",
      { execute: "migrate", arguments: { channels: [{ "channel-type": "main", addr: { transport: "x" } }] } },
      "'channels[0].addr.transport' does not accept value 'x'",
    ],
    [
      "a socket without a port",
      {
        execute: "migrate",
        arguments: {
          channels: [{ "channel-type": "main", addr: { transport: "socket", type: "inet", host: "h" } }],
        },
      },
      "Parameter 'channels[0].addr.port' is missing",
    ],
    [
      "a command line that is no list of texts",
      {
        execute: "migrate",
        arguments: { channels: [{ "channel-type": "main", addr: { transport: "exec", args: [1] } }] },
      },
      "'channels[0].addr.args'",
    ],
    ["a state that does not exist", { execute: "migrate-continue", arguments: { state: "x" } }, "value 'x'"],
  ])("is told what is wrong with %s, and is served on", async (_, request, desc) => {
    const client = await raw();
    const { error } = (await client.ask(request)) as { error: { class: string; desc: string } };
    expect(error.desc).toContain(desc);
    expect(error.class).toBe(desc.includes("has not been found") ? "CommandNotFound" : "GenericError");
    expect(await client.ask({ execute: "query-status" })).toHaveProperty("return");
    expect(machine.calls).toEqual([]);
  });

  test("may use single quotes, and send several commands at once or one in pieces", async () => {
    const client = await raw();
    client.socket.write("{'execute':'query-name','id':1}{\"execute\":\"query-status\",\"id\":2}");
    expect(await client.next()).toEqual({ id: 1, return: { name: "test vm" } });
    expect(await client.next()).toMatchObject({ id: 2 });
    client.socket.write('{"exec');
    await new Promise((resolve) => setImmediate(resolve));
    expect(await client.ask('ute":"query-name","id":3}')).toMatchObject({ id: 3 });
  });

  test("is answered in order, also when a command takes long", async () => {
    let stopped: () => void = () => undefined;
    machine.stopping = new Promise((resolve) => (stopped = resolve));
    const client = await raw();
    client.socket.write('{"execute":"stop","id":1}{"execute":"query-status","id":2}');
    setTimeout(stopped, 20);
    expect(await client.next()).toMatchObject({ event: "STOP" });
    expect(await client.next()).toEqual({ id: 1, return: {} });
    expect(await client.next()).toEqual({ id: 2, return: { running: false, status: "paused" } });
  });

  test("gets all answers when it closes its side first", async () => {
    const client = await raw();
    client.socket.end('{"execute":"stop","id":1}{"execute":"query-status","id":2}');
    expect(await client.next()).toMatchObject({ event: "STOP" });
    expect(await client.next()).toMatchObject({ id: 1 });
    expect(await client.next()).toMatchObject({ id: 2 });
    expect(await client.next()).toEqual({ closed: true });
  });

  test("that asks for more than is kept for it gets every answer, as fast as it reads", async () => {
    const client = await raw();
    const count = 25_000;
    client.socket.end('{"execute":"query-migrate-parameters"}'.repeat(count));
    let bytes = 0;
    for (let index = 0; index < count; index++) {
      const answer = await client.next();
      if (!("return" in answer)) throw new Error(`answer ${index} is ${JSON.stringify(answer)}`);
      bytes += JSON.stringify(answer).length;
    }
    expect(bytes).toBeGreaterThan(16 << 20);
  });

  test("that sends an endless message is told, and not remembered", async () => {
    const client = await raw();
    const answer = await client.ask(`{"execute":"${"x".repeat(2 << 20)}`);
    expect(answer).toMatchObject({ error: { desc: expect.stringContaining("longer than") as string } });
    expect(await client.ask('\n{"execute":"query-name"}')).toHaveProperty("return");
  });

  test("that goes in the middle leaves the others alone", async () => {
    const one = await raw();
    const other = await raw();
    one.socket.write('{"execute":"query');
    one.socket.destroy();
    expect(await other.ask({ execute: "query-name" })).toHaveProperty("return");
    while (machine.listeners.size > 1) await new Promise((resolve) => setImmediate(resolve));
  });
});
