/** Saves of QEMUs that were set up for something else: settings that get in the way, and come back as they were. */

import { existsSync, readdirSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  expectRunsOn,
  guestMachine,
  guestState,
  migrationSettings,
  setCapabilities,
} from "../support/migrating-guest.js";
import { startQemu } from "../support/qemu.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

describe.each(["10.0", "11.1"] as const)("QEMU %s, set up for something else", (version) => {
  describeWithQemu(version, "guest with changing memory", () => {
    test(`multifd-compression set, method mapped-ram: saved, and set again afterwards`, async () => {
      const machine = await startQemu(guestMachine(workDir.path, { version }));
      await machine.waitForPass(2);
      await setCapabilities(machine, "multifd", "x-ignore-shared");
      await machine.qmp("migrate-set-parameters", { "multifd-compression": "zlib" });
      const settings = await migrationSettings(machine);
      const file = workDir.file("vm.ram");
      await ramportJson(["save", "--qmp", machine.qmpPath, "--method", "mapped-ram", "--resume", file]);
      expect(await migrationSettings(machine)).toEqual(settings);
      await expectRunsOn(machine);
      expect(await ramportJson(["info", file])).toMatchObject({
        capabilities: ["mapped-ram"],
        complete: true,
      });
    });

    test(`no vmstate description, --live --method stream: ends, and the guest goes on`, async () => {
      const options = { version, machine: "pc,suppress-vmdesc=on" };
      const machine = await startQemu(guestMachine(workDir.path, options));
      await machine.waitForPass(2);
      const file = workDir.file("vm.ram");
      await ramportJson(["save", "--qmp", machine.qmpPath, "--live", "--method", "stream", file]);
      const before = guestState(machine);
      const destination = await startQemu(guestMachine(workDir.path, { ...options, incoming: "defer" }));
      await ramportJson(["restore", file, "--qmp", destination.qmpPath]);
      await expectGoesOn(destination, before);
    });
  });
});

describeWithQemu("10.0", "guest with changing memory", () => {
  test.each([
    ["--via file", ["--via", "file:/nowhere/x"], /is no socket to migrate over/],
    [
      "--via with --method mapped-ram",
      ["--via", "unix:/nowhere/x", "--method", "mapped-ram"],
      /travels nowhere/,
    ],
    ["--stop-after without --live", ["--stop-after", "3"], /Only a live save/],
  ])("%s is wrong usage, and nothing happens to the guest", async (_, flags, message) => {
    const machine = await startQemu(guestMachine(workDir.path, { version: "10.0" }));
    await machine.waitForPass(1);
    const file = workDir.file("vm.ram");
    const run = await ramport(["save", "--qmp", machine.qmpPath, ...flags, file]);
    expect(run.code).toBe(2);
    expect(run.stderr).toMatch(message);
    expect(existsSync(file)).toBe(false);
    expect(readdirSync(workDir.path).filter((name) => name.endsWith(".part"))).toEqual([]);
    await expectRunsOn(machine);
  });
});
