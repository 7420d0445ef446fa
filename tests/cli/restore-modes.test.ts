/** The modes of `ramport restore`, as far as they go without a QEMU. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { ramport, startRamport } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";
import { FakeMonitor } from "../qmp/fake-monitor.js";

const workDir = useWorkDir();

const restore = (...args: readonly string[]) =>
  ramport(["restore", "vm.ram", "--qmp", "/nowhere.qmp", ...args]);

describe("restore --mode", () => {
  test.each([
    [["--lazy", "--mode", "eager"], "--lazy and --mode eager contradict each other"],
    [["--lazy", "--channels", "2"], "--channels belongs to --mode eager"],
    [["--lazy", "--method", "send"], "--method belongs to --mode eager"],
    [["--lazy", "--direct-io"], "--direct-io belongs to --mode eager"],
    [["--rate-limit", "1M"], "--rate-limit belongs to --mode lazy"],
    [["--detach"], "--detach belongs to --mode lazy"],
    [["--mode", "eager", "--working-set", "a.ws"], "--working-set belongs to --mode lazy"],
    [["--mode", "clone", "--lazy"], "--lazy and --mode clone contradict each other"],
    [["--mode", "clone", "--detach"], "--detach belongs to --mode lazy, and this is --mode clone"],
    [
      ["--mode", "clone", "--method", "mapped-ram"],
      "--method belongs to --mode eager, and this is --mode clone",
    ],
    [
      ["--mode", "clone", "--via", "unix:a"],
      "--via belongs to --mode eager and lazy, and this is --mode clone",
    ],
    [["--lazy", "--rate-limit", "fast"], "--rate-limit takes bytes"],
  ])("%j is refused", async (args, message) => {
    const { code, stderr } = await restore(...args);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });

  test("--detach passes on why the process that was to stay failed", async () => {
    const { code, stderr, stdout } = await restore("--lazy", "--detach", "--log", "/dev/null");
    expect(code).toBe(3);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^ramport: There is no socket at [^\n]*nowhere\.qmp[^\n]*\n$/);
  });

  test.each([
    [
      "has not begun to hear signals",
      "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);",
      /was cancelled$/,
    ],
    [
      "says at that moment that the guest is there",
      `process.on("SIGTERM", () => {
        const report = { kind: "guest", guest: "running", elapsedMs: 1, remainingBytes: 1 };
        process.send(report, () => process.exit(130));
      });`,
      /the guest waits for its memory until the same command is run again$/,
    ],
  ])("SIGTERM ends a detached process that %s", async (_when, does, message) => {
    // It stands before the program in the process that stays.
    const [preload, started] = [workDir.file("preload.cjs"), workDir.file("started")];
    const begin = `require("node:fs").writeFileSync(${JSON.stringify(started)}, String(process.pid));`;
    writeFileSync(preload, `if (process.argv.includes("--detached-server")) { ${begin} ${does} }`);
    const silent = await FakeMonitor.raw(() => undefined);
    try {
      const args = ["restore", "vm.ram", "--qmp", silent.path, "--lazy", "--detach", "--log", "/dev/null"];
      const run = startRamport(args, { env: { NODE_OPTIONS: `--require ${preload}` } });
      await expect.poll(() => existsSync(started) && readFileSync(started, "utf8")).toMatch(/^\d+$/);
      run.kill("SIGTERM");
      const { code, stdout, stderr } = await run.ended;
      expect([code, stdout]).toEqual([130, ""]);
      expect(stderr.trimEnd()).toMatch(message);
      expect(() => process.kill(Number(readFileSync(started, "utf8")), 0)).toThrow("ESRCH");
    } finally {
      await silent.stop();
    }
  });
});
