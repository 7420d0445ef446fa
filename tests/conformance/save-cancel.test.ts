/** Saves that are cut short: the guest runs on where it is, and nothing is left behind. */

import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectRunsOn,
  guestMachine,
  migrationOf,
  migrationSettings,
  setCapabilities,
  waitForTransfer,
} from "../support/migrating-guest.js";
import { type CliRun, ramportJson, startRamport } from "../support/ramport-cli.js";
import { type QemuMachine, type QemuVersion, startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** A machine whose migration settings are not the default ones, and empty folders for output and temporary files. */
async function prepare(version: QemuVersion): Promise<{ machine: QemuMachine; out: string; tmp: string }> {
  const [out, tmp] = [workDir.file("out"), workDir.file("tmp")];
  mkdirSync(out);
  mkdirSync(tmp);
  const machine = await startQemu(guestMachine(workDir.path, { version }));
  await machine.waitForPass(2);
  await setCapabilities(machine, "xbzrle", "pause-before-switchover");
  await machine.qmp("migrate-set-parameters", { "max-bandwidth": 12_345_678, "downtime-limit": 345 });
  return { machine, out, tmp };
}

function startSave(
  machine: QemuMachine,
  folders: { readonly out: string; readonly tmp: string },
  args: readonly string[],
  wrapper: readonly string[] = [],
): CliRun {
  return startRamport(["save", "--qmp", machine.qmpPath, ...args, `${folders.out}/vm.ram`], {
    env: { TMPDIR: folders.tmp },
    wrapper,
  });
}

const SLOW = ["--max-bandwidth", "3M"];

describe.each([
  ["10.0", "stream", []],
  ["10.0", "stream", ["--channels", "3"]],
  ["10.0", "mapped-ram", []],
  ["11.1", "stream", []],
  ["11.1", "stream", ["--channels", "2", "--multifd-compression", "zstd"]],
  ["11.1", "mapped-ram", []],
  ["7.2", "stream", []],
  ["7.2", "stream", ["--channels", "2"]],
] as const)("save cut short, QEMU %s, method %s %s", (version, method, channels) => {
  describeWithQemu(version, "running guest", () => {
    test.each([
      ["live", "SIGINT"],
      ["stopped", version === "11.1" ? "SIGTERM" : "SIGINT"],
    ] as const)("%s save, %s in the middle", async (kind, signal) => {
      const { machine, ...folders } = await prepare(version);
      const settings = await migrationSettings(machine);
      const run = startSave(machine, folders, [
        ...["--method", method, ...channels, ...SLOW],
        ...(kind === "live" ? ["--live"] : []),
      ]);
      await waitForTransfer(machine, 2 << 20, run);
      run.kill(signal);
      const startMs = performance.now();
      const result = await run.ended;
      expect(result.code, result.stderr).toBe(130);
      expect(performance.now() - startMs).toBeLessThan(10_000);
      expect(result.stderr).toBe("ramport: The operation was cancelled\n");
      expect((await migrationOf(machine)).status).toMatch(/^(cancelled|failed)$/);
      await expectRunsOn(machine);
      expect(readdirSync(folders.out)).toEqual([]);
      expect(readdirSync(folders.tmp)).toEqual([]);
      expect(await migrationSettings(machine)).toEqual(settings);
      // Nothing is left that would stand in a next save's way.
      const again = await ramportJson([
        ...["save", "--qmp", machine.qmpPath, "--method", method, "--resume"],
        `${folders.out}/vm.ram`,
      ]);
      expect(again).toMatchObject({ guest: "running" });
      await expectRunsOn(machine);
    });
  });
});

describe.each(["10.0", "11.1", "7.2"] as const)("ramport killed, QEMU %s", (version) => {
  describeWithQemu(version, "live save by stream", () => {
    test("SIGKILL: the guest runs on, and there is no file of the output's name", async () => {
      const { machine, ...folders } = await prepare(version);
      const run = startSave(machine, folders, ["--method", "stream", "--live", ...SLOW]);
      await waitForTransfer(machine, 2 << 20, run);
      run.kill("SIGKILL");
      await run.ended;
      await expectRunsOn(machine, 5);
      await expect.poll(async () => (await migrationOf(machine)).status).toBe("failed");
      expect(readdirSync(folders.out).every((name) => name.endsWith(".part"))).toBe(true);
      await expectRunsOn(machine);
    });
  });
});

const mounted: string[] = [];

afterEach(() => {
  for (const folder of mounted.splice(0)) spawnSync("umount", ["-l", folder]);
});

/** A file system of 8 MiB; undefined where this user may not mount one. */
function mountSmall(folder: string): string | undefined {
  mkdirSync(folder);
  const result = spawnSync("mount", ["-t", "tmpfs", "-o", "size=8m", "none", folder]);
  if (result.status !== 0) return undefined;
  mounted.push(folder);
  return folder;
}

describe.each([
  ["10.0", "stream", []],
  ["10.0", "stream", ["--channels", "3"]],
  ["10.0", "mapped-ram", []],
  ["11.1", "stream", []],
  ["11.1", "mapped-ram", []],
] as const)("no room for the file, QEMU %s, method %s %s", (version, method, channels) => {
  describeWithQemu(version, "running guest", () => {
    test.for(["live", "stopped"])("%s save onto a device that is too small", async (kind, { skip }) => {
      const out = mountSmall(workDir.file("small"));
      if (out === undefined) return skip("this user may not mount a small file system");
      const { machine, ...folders } = await prepare(version);
      const settings = await migrationSettings(machine);
      const run = startSave(machine, { ...folders, out }, [
        ...["--method", method, ...channels],
        ...(kind === "live" ? ["--live", "--stop-after", "20"] : []),
      ]);
      const result = await run.ended;
      expect(result.code, result.stderr).toBe(3);
      expect(result.stderr).toMatch(/^ramport: [^\n]*[Nn]o space[^\n]*\n$/);
      await expectRunsOn(machine);
      expect(readdirSync(out)).toEqual([]);
      expect(readdirSync(folders.tmp)).toEqual([]);
      expect(await migrationSettings(machine)).toEqual(settings);
    });
  });
});

describe.each(["10.0", "7.2"] as const)("the file becomes too large for the process, QEMU %s", (version) => {
  describeWithQemu(version, "method stream", () => {
    test.for(["--live", "--resume"])("save %s", async (flag, { skip }) => {
      if (spawnSync("prlimit", ["--version"]).error !== undefined) return skip("there is no prlimit");
      const { machine, ...folders } = await prepare(version);
      const run = startSave(
        machine,
        folders,
        ["--method", "stream", flag],
        ["prlimit", `--fsize=${8 << 20}`],
      );
      const result = await run.ended;
      expect(result.code, result.stderr).toBe(3);
      expect(result.stderr).toMatch(/^ramport: [^\n]*larger than [^\n]*\n$/);
      await expectRunsOn(machine);
      expect(readdirSync(folders.out)).toEqual([]);
      expect(readdirSync(folders.tmp)).toEqual([]);
    });
  });
});

describeWithQemu("10.0", "QEMU ends in the middle of a save, QEMU 10.0", () => {
  test.each([
    ["stream", []],
    ["stream", ["--channels", "3"]],
    ["mapped-ram", []],
  ])("method %s %s: one sentence, exit 3, no file", async (method, channels) => {
    const { machine, ...folders } = await prepare("10.0");
    const run = startSave(machine, folders, ["--method", method, ...channels, "--live", ...SLOW]);
    await waitForTransfer(machine, 2 << 20, run);
    await machine.kill();
    const result = await run.ended;
    expect(result.code, result.stderr).toBe(3);
    expect(result.stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(readdirSync(folders.out)).toEqual([]);
    expect(readdirSync(folders.tmp)).toEqual([]);
  });

  test.each([
    ["stream", []],
    ["stream", ["--channels", "3"]],
    ["mapped-ram", []],
  ])(
    "method %s %s: a migration that somebody else cancels fails the save, and the guest runs on",
    async (method, channels) => {
      const { machine, ...folders } = await prepare("10.0");
      const run = startSave(machine, folders, ["--method", method, ...channels, ...SLOW]);
      await waitForTransfer(machine, 2 << 20, run);
      await machine.qmp("migrate_cancel");
      const result = await run.ended;
      expect(result.code, result.stderr).toBe(3);
      expect(result.stderr).toMatch(/cancelled by somebody else\n$/);
      await expectRunsOn(machine);
      expect(readdirSync(folders.out)).toEqual([]);
    },
  );
});
