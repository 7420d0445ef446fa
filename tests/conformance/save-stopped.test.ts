/** A guest that is stopped for its save, and what it does afterwards; and outputs that may not be overwritten. */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  expectRunsOn,
  expectStandsStill,
  guestMachine,
  guestState,
  migrationSettings,
  setCapabilities,
} from "../support/migrating-guest.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

describe.each([
  ["10.0", "mapped-ram"],
  ["10.0", "stream"],
  ["11.1", "mapped-ram"],
  ["11.1", "stream"],
  ["7.2", "stream"],
] as const)("save without --live, QEMU %s, method %s", (version, method) => {
  describeWithQemu(version, "guest with changing memory", () => {
    test("leaves it stopped; a second save says why there is none; settings are as before", async () => {
      const machine = await startQemu(guestMachine(workDir.path, { version }));
      await machine.waitForPass(2);
      await setCapabilities(machine, "xbzrle", "pause-before-switchover");
      await machine.qmp("migrate-set-parameters", { "max-bandwidth": 12_345_678 });
      const settings = await migrationSettings(machine);
      const file = workDir.file("vm.ram");
      const save = ["save", "--qmp", machine.qmpPath, "--method", method];
      expect(await ramportJson([...save, file])).toMatchObject({
        guest: "stopped",
        method,
        stoppedToConverge: false,
      });
      await expectStandsStill(machine, "postmigrate");
      expect(await migrationSettings(machine)).toEqual(settings);

      const second = await ramport([...save, workDir.file("second.ram")]);
      expect(second.code).toBe(3);
      expect(second.stderr).toMatch(
        /^ramport: This guest was stopped by an earlier save or migration.*cont\n$/,
      );
      expect(readdirSync(workDir.path).filter((name) => name.includes("ram"))).toEqual(["vm.ram"]);
      await expectStandsStill(machine, "postmigrate");
      await machine.qmp("cont");
      await expectRunsOn(machine);
    });

    test("--resume lets it run on; the file's guest runs too", async () => {
      const machine = await startQemu(guestMachine(workDir.path, { version }));
      await machine.waitForPass(2);
      const file = workDir.file("vm.ram");
      const result = await ramportJson([
        ...["save", "--qmp", machine.qmpPath, "--method", method, "--resume"],
        file,
      ]);
      expect(result).toMatchObject({ guest: "running" });
      await expectRunsOn(machine);
      // It can be saved again.
      await ramportJson([
        ...["save", "--qmp", machine.qmpPath, "--method", method, "--resume", "--force"],
        file,
      ]);
      await expectRunsOn(machine);
      const id = machine.passes().at(-1)!.id;
      await machine.kill();
      const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
      // It was stopped by the save, and that is how it was saved.
      await ramportJson(["restore", file, "--qmp", destination.qmpPath, "--run"]);
      expect((await destination.waitForMorePasses(3)).id).toBe(id);
    });
  });
});

describeWithQemu("10.0", "save of a guest that the user had paused, QEMU 10.0", () => {
  test("it restores paused; --run runs it; --resume does not start what did not run", async () => {
    const machine = await startQemu(guestMachine(workDir.path, { version: "10.0" }));
    await machine.waitForPass(2);
    await machine.qmp("stop");
    const file = workDir.file("vm.ram");
    const result = await ramportJson(["save", "--qmp", machine.qmpPath, "--resume", file]);
    expect(result).toMatchObject({ guest: "stopped" });
    await expectStandsStill(machine, "postmigrate");
    const state = guestState(machine);
    await machine.kill();

    for (const method of ["mapped-ram", "send"]) {
      const paused = await startQemu(guestMachine(workDir.path, { version: "10.0", incoming: "defer" }));
      expect(await ramportJson(["restore", file, "--qmp", paused.qmpPath, "--method", method])).toMatchObject(
        { guest: "paused", method },
      );
      await expectStandsStill(paused, "paused");
      expect(paused.serial.text).toBe("");
      await paused.qmp("cont");
      await expectGoesOn(paused, state);
      await paused.kill();

      const running = await startQemu(guestMachine(workDir.path, { version: "10.0", incoming: "defer" }));
      expect(
        await ramportJson(["restore", file, "--qmp", running.qmpPath, "--method", method, "--run"]),
      ).toMatchObject({ guest: "running", method });
      await expectGoesOn(running, state);
      await running.kill();
    }
  });
});

describeWithQemu("10.0", "save of a running guest, QEMU 10.0", () => {
  test("it restores running; --paused holds it, and it prints nothing until cont", async () => {
    const machine = await startQemu(guestMachine(workDir.path, { version: "10.0" }));
    await machine.waitForPass(2);
    const file = workDir.file("vm.ram");
    await ramportJson(["save", "--qmp", machine.qmpPath, "--live", file]);
    const state = guestState(machine);
    await machine.kill();
    for (const method of ["mapped-ram", "send"]) {
      const held = await startQemu(guestMachine(workDir.path, { version: "10.0", incoming: "defer" }));
      expect(
        await ramportJson(["restore", file, "--qmp", held.qmpPath, "--method", method, "--paused"]),
      ).toMatchObject({ guest: "paused", method });
      await expectStandsStill(held, "paused");
      expect(held.serial.text).toBe("");
      await held.qmp("cont");
      await expectGoesOn(held, state);
      await held.kill();
    }
  });

  test.each(["mapped-ram", "stream"])("an existing output, method %s", async (method) => {
    const machine = await startQemu(guestMachine(workDir.path, { version: "10.0" }));
    await machine.waitForPass(2);
    const file = workDir.file("vm.ram");
    writeFileSync(file, "something of the user's");
    const save = ["save", "--qmp", machine.qmpPath, "--method", method, file];
    const refused = await ramport(save);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(/exists already; .*--force/);
    expect(readFileSync(file, "utf8")).toBe("something of the user's");
    await expectRunsOn(machine);
    expect(await ramport([...save, "--force"])).toMatchObject({ code: 0 });
    expect(readFileSync(file).subarray(0, 4).toString()).toBe("QEVM");
    expect(readdirSync(workDir.path).filter((name) => name.includes("vm.ram"))).toEqual(["vm.ram"]);
  });

  test("what is no place for a file", async () => {
    const machine = await startQemu(guestMachine(workDir.path, { version: "10.0" }));
    await machine.waitForPass(2);
    for (const method of ["mapped-ram", "stream", "auto"]) {
      const save = ["save", "--qmp", machine.qmpPath, "--method", method];
      const missing = await ramport([...save, workDir.file("no/folder/vm.ram")]);
      expect(missing.code).toBe(3);
      expect(missing.stderr).toMatch(/No such file|does not exist/);
      expect((await ramport([...save, "--force", workDir.path])).code).toBe(2);
      await expectRunsOn(machine);
    }
  });
});

describeWithQemu("10.0", "a guest that changes memory faster than it may be saved, QEMU 10.0", () => {
  test.each(["mapped-ram", "stream"])(
    "method %s: it says so, --stop-after ends it, and the file is good",
    async (method) => {
      const machine = await startQemu(guestMachine(workDir.path, { version: "10.0" }));
      await machine.waitForPass(2);
      const file = workDir.file("vm.ram");
      const startMs = performance.now();
      const result = await ramport([
        ...["save", "--qmp", machine.qmpPath, "--method", method, "--live", "--json"],
        ...["--max-bandwidth", "12M", "--stop-after", "4", file],
      ]);
      expect(result.code, result.stderr).toBe(0);
      expect(performance.now() - startMs).toBeGreaterThan(4000);
      expect(performance.now() - startMs).toBeLessThan(30_000);
      expect(result.stderr).toMatch(/changes memory faster than it can be saved; it will be stopped in \d s/);
      expect(result.stderr).toMatch(/does not converge: stopping the guest/);
      expect(JSON.parse(result.stdout)).toMatchObject({ stoppedToConverge: true, guest: "stopped" });
      const state = guestState(machine);
      await machine.kill();
      const destination = await startQemu(guestMachine(workDir.path, { version: "10.0", incoming: "defer" }));
      await ramportJson(["restore", file, "--qmp", destination.qmpPath, "--run"]);
      await expectGoesOn(destination, state);
    },
  );

  test("--stop-after 2 --resume: it runs on afterwards", async () => {
    const machine = await startQemu(guestMachine(workDir.path, { version: "10.0" }));
    await machine.waitForPass(2);
    const result = await ramportJson([
      ...["save", "--qmp", machine.qmpPath, "--live", "--resume", "--max-bandwidth", "12M"],
      ...["--stop-after", "2", workDir.file("vm.ram")],
    ]);
    expect(result).toMatchObject({ stoppedToConverge: true, guest: "running" });
    await expectRunsOn(machine);
  });
});
