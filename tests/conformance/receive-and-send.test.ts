/** The ways in and out: every kind of URI, against a real QEMU at the other end. */

import { closeSync, openSync, readdirSync, statSync } from "node:fs";
import net from "node:net";
import { describe, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import { readMappedRamContent } from "../support/mapped-ram-content.js";
import {
  expectGoesOn,
  expectRunsOn,
  type GuestState,
  guestMachine,
  guestState,
  migrationEnd,
  setCapabilities,
  waitForTransfer,
} from "../support/migrating-guest.js";
import { CLI_MAIN, type CliRun, ramport, ramportJson, startRamport } from "../support/ramport-cli.js";
import { type QemuMachine, startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const version = "10.0";

async function startGuest(...capabilities: readonly string[]): Promise<QemuMachine> {
  const machine = await startQemu(guestMachine(workDir.path, { version }));
  await machine.waitForPass(2);
  if (capabilities.length > 0) await setCapabilities(machine, ...capabilities);
  await machine.qmp("migrate-set-parameters", { "max-bandwidth": 0 });
  return machine;
}

/** Quotes for QEMU's exec:, which is a shell's line. */
function quoted(...words: readonly string[]): string {
  return words.map((word) => `'${word}'`).join(" ");
}

async function expectLoadsAlone(file: string, state: GuestState): Promise<void> {
  const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
  await setCapabilities(destination, "mapped-ram");
  await destination.qmp("migrate-incoming", { uri: `file:${file}` });
  await expectGoesOn(destination, state);
}

describeWithQemu(version, "receive from a running QEMU 10.0", () => {
  test.each([
    ["unix:", "with a return path", ["return-path"]],
    ["unix:", "without a return path", []],
    ["tcp:127.0.0.1:0", "with a return path", ["return-path"]],
    ["tcp:127.0.0.1:0", "without a return path", []],
  ])("%s %s", async (kind, _what, capabilities) => {
    const source = await startGuest(...capabilities);
    const file = workDir.file("vm.ram");
    const run = startRamport([
      "receive",
      kind === "unix:" ? `unix:${workDir.file("in")}` : kind,
      file,
      "--json",
    ]);
    const [, uri] = await run.waitForMessage(/^Waiting for a migration to (.*)$/m);
    expect(uri).not.toMatch(/:0$/);
    await source.qmp("migrate", { uri });
    const result = await run.ended;
    expect(result.code, result.stderr).toBe(0);
    expect(await migrationEnd(source)).toBe("completed");
    const state = guestState(source);
    await source.kill();
    expect(JSON.parse(result.stdout)).toMatchObject({ path: file, machine: "pc-i440fx-10.0" });
    await expectLoadsAlone(file, state);
  });

  test("file: and - (standard input), both of the same stream, give the same memory", async () => {
    const source = await startGuest();
    const stream = workDir.file("stream");
    await source.qmp("migrate", { uri: `exec:cat > ${quoted(stream)}` });
    expect(await migrationEnd(source)).toBe("completed");
    const state = guestState(source);
    await source.kill();
    const [byName, byPipe] = [workDir.file("name.ram"), workDir.file("pipe.ram")];
    await ramportJson(["receive", `file:${stream}`, byName]);
    const stdin = openSync(stream, "r");
    await ramportJson(["receive", "-", byPipe], { stdin });
    closeSync(stdin);
    expect(readMappedRamContent(byPipe)).toEqual(readMappedRamContent(byName));
    await expectLoadsAlone(byPipe, state);
  });

  test("- from a pipe that QEMU writes to", async () => {
    const source = await startGuest();
    const file = workDir.file("vm.ram");
    const receive = quoted(process.execPath, CLI_MAIN, "receive", "-", file);
    await source.qmp("migrate", { uri: `exec:cat | ${receive}` });
    expect(await migrationEnd(source)).toBe("completed");
    const state = guestState(source);
    await expect.poll(() => readdirSync(workDir.path), { timeout: 10_000 }).toContain("vm.ram");
    await source.kill();
    await expectLoadsAlone(file, state);
  });

  test("fd:N of an inherited pipe", async () => {
    const source = await startGuest();
    const file = workDir.file("vm.ram");
    const receive = quoted(process.execPath, CLI_MAIN, "receive", "fd:7", file);
    await source.qmp("migrate", { uri: `exec:cat | { ${receive} 7<&0 0</dev/null; }` });
    expect(await migrationEnd(source)).toBe("completed");
    const state = guestState(source);
    await expect.poll(() => readdirSync(workDir.path), { timeout: 10_000 }).toContain("vm.ram");
    await source.kill();
    await expectLoadsAlone(file, state);
  });

  test("fd:N of an inherited socket, with a return path", async () => {
    const source = await startGuest("return-path");
    const file = workDir.file("vm.ram");
    const run = startRamport(["receive", "fd:3", file], { inherit: ["pipe"] });
    const inherited = run.process.stdio[3] as net.Socket;
    inherited.on("error", () => undefined);
    const server = net.createServer((connection) => {
      connection.on("error", () => undefined);
      connection.pipe(inherited).pipe(connection);
    });
    await new Promise<void>((resolve) => server.listen(workDir.file("in"), resolve));
    await source.qmp("migrate", { uri: `unix:${workDir.file("in")}` });
    const result = await run.ended;
    server.close();
    expect(result.code, result.stderr).toBe(0);
    expect(await migrationEnd(source)).toBe("completed");
    const state = guestState(source);
    await source.kill();
    await expectLoadsAlone(file, state);
  });

  test.each([
    ["with a return path", ["return-path"]],
    ["without a return path", []],
  ])("Ctrl-C in the middle, %s: the guest runs on, no file is left", async (_what, capabilities) => {
    const source = await startGuest(...capabilities);
    await source.qmp("migrate-set-parameters", { "max-bandwidth": 3 << 20 });
    const run: CliRun = startRamport(["receive", `unix:${workDir.file("in")}`, workDir.file("vm.ram")]);
    const [, uri] = await run.waitForMessage(/^Waiting for a migration to (.*)$/m);
    await source.qmp("migrate", { uri });
    await waitForTransfer(source, 2 << 20, run);
    run.kill("SIGINT");
    expect((await run.ended).code).toBe(130);
    expect(await migrationEnd(source)).toBe("failed");
    await expectRunsOn(source);
    expect(readdirSync(workDir.path).filter((name) => name.includes("vm.ram"))).toEqual([]);
  });
});

describeWithQemu(version, "send to a waiting QEMU 10.0", () => {
  async function saved(): Promise<{ readonly file: string; readonly state: GuestState }> {
    const source = await startGuest();
    const file = workDir.file("vm.ram");
    await ramportJson(["save", "--qmp", source.qmpPath, "--live", file]);
    const state = guestState(source);
    await source.kill();
    return { file, state };
  }

  test("tcp:, unix: and - into a pipe", async () => {
    const { file, state } = await saved();
    const tcp = await startQemu(guestMachine(workDir.path, { version, incoming: "tcp:127.0.0.1:0" }));
    const info = (await tcp.qmp("query-migrate")) as { "socket-address": { host: string; port: string }[] };
    const { port } = info["socket-address"][0]!;
    expect(await ramportJson(["send", file, `tcp:127.0.0.1:${port}`])).toMatchObject({ confirmed: true });
    await expectGoesOn(tcp, state);
    await tcp.kill();

    const socket = workDir.file("in");
    const unix = await startQemu(guestMachine(workDir.path, { version, incoming: `unix:${socket}` }));
    expect(await ramportJson(["send", file, `unix:${socket}`])).toMatchObject({ confirmed: true });
    await expectGoesOn(unix, state);
    await unix.kill();

    // What is sent into a file is an ordinary stream.
    const stream = workDir.file("stream");
    const stdout = openSync(stream, "w");
    expect(await ramport(["send", file, "-"], { stdout })).toMatchObject({ code: 0 });
    closeSync(stdout);
    expect(statSync(stream).size).toBeGreaterThan(12 << 20);
    const send = quoted(process.execPath, CLI_MAIN, "send", file, "-");
    for (const from of [`cat ${quoted(stream)}`, `${send} 2>/dev/null`, `${send} 2>/dev/null | cat`]) {
      const piped = await startQemu(guestMachine(workDir.path, { version, incoming: `exec:${from}` }));
      await expectGoesOn(piped, state);
      await piped.kill();
    }
  });

  test("to a machine that is another one: its refusal is told, exit 3", async () => {
    const { file } = await saved();
    const socket = workDir.file("in");
    const other = await startQemu(
      guestMachine(workDir.path, { version, incoming: `unix:${socket}`, args: ["-device", "VGA"] }),
    );
    const result = await ramport(["send", file, `unix:${socket}`]);
    expect(result.code, result.stderr).toBe(3);
    expect(result.stderr).toMatch(/^ramport: [^\n]+\n$/);
    await other.kill();

    const third = await startQemu(
      guestMachine(workDir.path, { version, incoming: "defer", args: ["-device", "VGA"] }),
    );
    const restored = await ramport(["restore", file, "--qmp", third.qmpPath]);
    expect(restored.code, restored.stderr).toBe(3);
    expect(restored.stderr).toMatch(/^ramport: QEMU's migration failed: load of migration failed[^\n]*\n$/);
  });

  test("restore into a QEMU that does not wait for one", async () => {
    const { file } = await saved();
    const running = await startGuest();
    const result = await ramport(["restore", file, "--qmp", running.qmpPath]);
    expect(result).toMatchObject({ code: 3, stderr: expect.stringContaining("-incoming defer") as string });
    await expectRunsOn(running);
  });
});

describe.each(["7.2", "10.0", "11.1"] as const)("a source with several channels", (multifdVersion) => {
  describeWithQemu(multifdVersion, "multifd", () => {
    test.each([
      ["unix:", []],
      ["tcp::0", ["return-path"]],
    ])("receive %s says what to turn off; the guest runs on", async (kind, capabilities) => {
      const source = await startQemu(guestMachine(workDir.path, { version: multifdVersion }));
      await source.waitForPass(2);
      await setCapabilities(source, "multifd", ...capabilities);
      const uri = kind === "unix:" ? `unix:${workDir.file("in")}` : kind;
      const run = startRamport(["receive", uri, workDir.file("vm.ram")]);
      const [, listening] = await run.waitForMessage(/^Waiting for a migration to (.*)$/m);
      await source.qmp("migrate", { uri: listening });
      const result = await run.ended;
      expect(result).toMatchObject({ code: 1 });
      expect(result.stderr).toMatch(/turn the multifd capability off at the source\n$/);
      expect(await migrationEnd(source)).toBe("failed");
      await expectRunsOn(source);
    });
  });
});
