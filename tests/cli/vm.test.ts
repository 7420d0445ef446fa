/** `ramport vm` as a process: its options, its serial ports, its monitor, and how it ends. */

import fs from "node:fs";
import net from "node:net";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../guests/multiboot.js";
import { parseSerialReport, SerialReport } from "../../guests/serial-report.js";
import { QmpClient } from "../../src/qmp/index.js";
import { type CliRun, ramport, startRamport } from "../support/ramport-cli.js";
import { killAllVms, startVm } from "../support/vm-process.js";
import { useWorkDir } from "../support/work-dir.js";

const MIB = 1 << 20;
const guest = buildMultibootImage({ dirtyRange: { start: 2 * MIB, end: 3 * MIB } });

const workDir = useWorkDir();
let kernel: string;
const runs: CliRun[] = [];

beforeEach(() => {
  kernel = workDir.file("guest");
  fs.writeFileSync(kernel, guest);
});

afterEach(async () => {
  for (const run of runs.splice(0)) {
    run.kill("SIGKILL");
    await run.ended;
  }
  await killAllVms();
});

function start(...args: readonly string[]): CliRun {
  const run = startRamport(["vm", "-m", "16M", "-kernel", kernel, ...args]);
  runs.push(run);
  return run;
}

/** Waits until the guest has said so much on standard output. */
async function waitForPasses(run: CliRun, count: number): Promise<SerialReport> {
  for (;;) {
    const report = new SerialReport();
    report.push(run.stdout.toString("latin1"));
    if (report.passes.length >= count) return report;
    if (run.result !== undefined) throw new Error(`it ended: ${run.result.stderr}`);
    await new Promise<void>((resolve) => {
      run.process.stdout?.once("data", () => resolve());
      run.process.once("close", () => resolve());
    });
  }
}

describe("a machine", () => {
  test("says what its guest says, is stopped, let go on and ended by its monitor", async () => {
    const qmpPath = workDir.file("qmp");
    const run = start(
      "-serial",
      "stdio",
      "-qmp",
      `unix:${qmpPath},server=on,wait=off`,
      "-name",
      "guest=one,x=y",
    );
    await waitForPasses(run, 2);
    await using qmp = await QmpClient.connect(qmpPath);
    expect(await qmp.execute("query-name")).toEqual({ name: "one" });
    await qmp.execute("stop");
    const { length } = run.stdout;
    expect(await qmp.execute("query-status")).toEqual({ running: false, status: "paused" });
    expect(run.stdout.length - length).toBeLessThan(200);
    await qmp.execute("cont");
    await waitForPasses(run, 4);
    await qmp.execute("quit");
    expect(await run.ended).toMatchObject({ code: 0, signal: null, stderr: "" });
    expect(fs.existsSync(qmpPath)).toBe(false);
    parseSerialReport(run.stdout.toString("latin1"));
  });

  test.each(["SIGINT", "SIGTERM"] as const)("ends cleanly at %s, and nothing is left", async (signal) => {
    const qmpPath = workDir.file("qmp");
    const serial = workDir.file("serial");
    const run = start("-serial", `unix:${serial},server=on,wait=off`, "-qmp", `unix:${qmpPath}`);
    await using qmp = await connectWhenReady(qmpPath, run);
    const shutDown = qmp.waitForEvent("SHUTDOWN", undefined, { timeoutMs: 20_000 });
    run.kill(signal);
    expect((await shutDown).data).toEqual({ guest: false, reason: "host-signal" });
    expect(await run.ended).toMatchObject({
      code: 0,
      signal: null,
      stderr: `ramport: terminating on signal ${signal}\n`,
    });
    expect([qmpPath, serial].map((path) => fs.existsSync(path))).toEqual([false, false]);
  });

  test("runs on when nobody reads its standard output any more", async () => {
    const qmpPath = workDir.file("qmp");
    const run = start("-serial", "stdio", "-qmp", `unix:${qmpPath},server=on,wait=off`);
    await waitForPasses(run, 1);
    run.process.stdout?.destroy();
    const out = workDir.file("saved");
    // Its guest has said more before it is saved.
    const save = await ramport(["save", "--qmp", qmpPath, "--live", "--resume", out]);
    expect(save).toMatchObject({ code: 0 });
    await using qmp = await QmpClient.connect(qmpPath);
    expect(await qmp.execute("query-status")).toEqual({ running: true, status: "running" });
    await qmp.execute("quit");
    expect(await run.ended).toMatchObject({ code: 0, stderr: "" });
    expect(fs.existsSync(qmpPath)).toBe(false);
  });

  test("whose emulator breaks says so in one sentence, and nothing is left", async () => {
    const qmpPath = workDir.file("qmp");
    const broken = "process.on('SIGUSR2', () => { throw new RangeError('a sector that is not there'); })";
    const run = startRamport(["vm", "-m", "16M", "-kernel", kernel, "-qmp", `unix:${qmpPath}`], {
      env: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(broken)}` },
    });
    runs.push(run);
    await using qmp = await connectWhenReady(qmpPath, run);
    const shutDown = qmp.waitForEvent("SHUTDOWN", undefined, { timeoutMs: 20_000 });
    run.kill("SIGUSR2");
    expect((await shutDown).data).toEqual({ guest: false, reason: "host-error" });
    expect(await run.ended).toMatchObject({
      code: 3,
      stderr: "ramport: The emulator cannot go on: RangeError: a sector that is not there\n",
    });
    expect(fs.existsSync(qmpPath)).toBe(false);
  });

  test("waits for its clients where it is told to, and ends while it waits", async () => {
    const serial = workDir.file("serial");
    const run = start("-serial", `unix:${serial},server=on`, "-qmp", `unix:${workDir.file("qmp")}`);
    await run.waitForMessage(/waiting for a client at unix:/);
    const client = net.connect({ path: serial });
    const report = new SerialReport();
    await new Promise<void>((resolve) => {
      client.on("data", (chunk) => {
        if (report.push(chunk.toString("latin1")).length > 0) resolve();
      });
    });
    // From its first word on: it did not start before.
    expect(report.startId).toBeDefined();
    client.destroy();
    const waiting = start("-qmp", `unix:${workDir.file("other")},server=on`);
    await waiting.waitForMessage(/waiting for a client/);
    waiting.kill("SIGTERM");
    expect(await waiting.ended).toMatchObject({ code: 0 });
  });

  test("has -S, -uuid and sizes in QEMU's words, and takes options with two dashes as well", async () => {
    const uuid = "550E8400-e29b-41d4-a716-446655440000";
    const vm = await startVm({ guest, paused: true, args: ["--uuid", uuid, "-m", "size=20"] });
    expect(await vm.qmp("query-status")).toEqual({ running: false, status: "prelaunch" });
    expect(await vm.qmp("query-uuid")).toEqual({ UUID: uuid.toLowerCase() });
    expect(await vm.qmp("query-memory-size-summary")).toMatchObject({ "base-memory": 20 * MIB });
    expect(vm.serial.text).toBe("");
    await vm.qmp("cont");
    await vm.waitForPass(1);
    await expect(vm.qmp("system_reset")).rejects.toThrow(/no BIOS/);
    expect(await vm.quit()).toMatchObject({ code: 0 });
  });

  test("expects the downtime that is allowed, until it knows more", async () => {
    const vm = await startVm({ guest });
    await vm.qmp("migrate-set-parameters", { "max-bandwidth": 65_536, "downtime-limit": 77 });
    await vm.qmp("migrate", { uri: "exec:cat >/dev/null" });
    let info: Record<string, unknown>;
    do info = (await vm.qmp("query-migrate")) as Record<string, unknown>;
    while (info.status === "setup");
    expect(info).toMatchObject({ status: "active", "expected-downtime": 77 });
  });

  test.runIf(fs.existsSync("/usr/bin/script"))("is saved from a terminal that has no size", async () => {
    const vm = await startVm({ guest });
    // Its terminal has 0 columns where its own standard input is none.
    const run = startRamport(["save", "--qmp", vm.qmpPath, "--live", workDir.file("out")], {
      wrapper: ["/bin/sh", "-c", `exec /usr/bin/script -qec "$(printf '%s ' "$@")" /dev/null`, "sh"],
    });
    runs.push(run);
    expect(await run.ended).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("Saved v86") as string,
    });
  });

  test("serves one client of its monitor after the other", async () => {
    const vm = await startVm({ guest });
    const first = await QmpClient.connect(vm.qmpPath);
    const second = QmpClient.connect(vm.qmpPath);
    expect(await first.execute("query-status")).toMatchObject({ running: true });
    await expect(QmpClient.connect(vm.qmpPath, { timeoutMs: 100 })).rejects.toThrow(/no greeting/);
    await first.close();
    const qmp = await second;
    expect(await qmp.execute("query-status")).toMatchObject({ running: true });
    await qmp.close();
  });
});

describe("a guest that comes by a migration", () => {
  test("and does not come well: the machine ends with the reason", async () => {
    const bad = workDir.file("bad");
    fs.writeFileSync(bad, Buffer.alloc(100_000, 7));
    const vm = await ramport(["vm", "-m", "16M", "-incoming", `file:${bad}`]);
    expect(vm.code).toBe(1);
    expect(vm.stderr).toMatch(/^ramport: .+\n$/);
    expect(await ramport(["vm", "-m", "16M", "-incoming", "file:/nowhere"])).toMatchObject({
      code: 1,
      stderr: "ramport: Opening failed: /nowhere does not exist\n",
    });
  });

  test("and does not come well, where that was to be told only", async () => {
    const bad = workDir.file("bad");
    fs.writeFileSync(bad, Buffer.alloc(100_000, 7));
    const vm = await startVm({ incoming: "defer" });
    await expect(vm.qmp("migrate", { uri: "exec:cat" })).rejects.toThrow(/waiting for an incoming/);
    await vm.qmp("migrate-incoming", { uri: `file:${bad}`, "exit-on-error": false });
    while (((await vm.qmp("query-migrate")) as { status: string }).status !== "failed");
    expect(await vm.qmp("query-status")).toEqual({ running: false, status: "inmigrate" });
    expect(await vm.quit()).toMatchObject({ code: 0 });
  });
});

describe("what is wrong is said in one sentence", () => {
  test.each<[string, readonly string[], string]>([
    ["no guest", [], "nothing that starts it"],
    ["an unknown option", ["-nosuch"], "unknown option '-nosuch'"],
    ["an option without its value", ["-m"], "-m needs a value"],
    ["a size that is none", ["-m", "much"], "-m takes bytes"],
    ["a size that v86 cannot have", ["-m", "3G", "-incoming", "defer"], "cannot have this much memory"],
    ["a serial port to nowhere", ["-serial", "pty"], "-serial does not understand"],
    ["five serial ports", ["1", "2", "3", "4", "5"].flatMap(() => ["-serial", "null"]), "4 serial ports"],
    ["a monitor in a file", ["-qmp", "file:/x"], "-qmp takes a socket"],
    ["a UUID that is none", ["-uuid", "x", "-incoming", "defer"], "is no UUID"],
    ["a descriptor that is none", ["-add-fd", "fd=x,set=1"], "-add-fd does not understand"],
    ["a machine that v86 is none of", ["-machine", "pc"], "write acpi=on or acpi=off"],
    ["memory that is not shared", ["-mem-path", "/x"], "-mem-share on"],
  ])("%s", async (_, args, message) => {
    const result = await ramport(["vm", ...args]);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toContain(message);
  });

  test("a socket that is in use, and a kernel that is not there", async () => {
    const vm = await startVm({ guest });
    const taken = await ramport(["vm", "-m", "16M", "-kernel", kernel, "-qmp", `unix:${vm.qmpPath}`]);
    expect(taken).toMatchObject({ code: 3, stderr: expect.stringContaining("is in use already") as string });
    const missing = await ramport(["vm", "-kernel", "/nowhere/kernel"]);
    expect(missing).toMatchObject({ code: 3, stderr: expect.stringContaining("does not exist") as string });
  });

  test("--help shows QEMU's form of the options, and examples", async () => {
    for (const help of ["--help", "-help", "-h"]) {
      const { code, stdout } = await ramport(["vm", help]);
      expect(code).toBe(0);
      expect(stdout).toMatch(/^ {2}-kernel <file> /m);
      expect(stdout).not.toMatch(/--(kernel|serial|incoming|mem-path)/);
      expect(stdout).toContain("$ ramport vm -m 64M");
    }
  });
});

async function connectWhenReady(path: string, run: CliRun): Promise<QmpClient> {
  for (;;) {
    if (run.result !== undefined) throw new Error(`it ended: ${run.result.stderr}`);
    if (fs.existsSync(path)) {
      const qmp = await QmpClient.connect(path).catch(() => undefined);
      if (qmp !== undefined) return qmp;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
