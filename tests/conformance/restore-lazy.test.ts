/** `ramport restore --lazy` into real QEMUs: the guest runs at once and checks every page that comes after it. */

import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";

import { buildBootSector } from "../../guests/boot-sector.js";
import { QmpClient } from "../../src/qmp/index.js";
import { restoreVmLazily } from "../../src/session/index.js";
import { readWorkingSet, workingSetNumbers } from "../../src/snapshot/index.js";
import { encodeLibvirtSaveHeader } from "../../src/wire/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  expectStandsStill,
  type GuestState,
  guestMachine,
  guestState,
  migrationEnd,
  migrationOf,
  migrationSettings,
  statusOf,
} from "../support/migrating-guest.js";
import { type QemuMachine, type QemuVersion, startQemu } from "../support/qemu.js";
import { type CliRun, ramport, ramportJson, startRamport } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const MIB = 1 << 20;

interface Saved {
  readonly path: string;
  readonly state: GuestState;
}

/** A guest that touches little of its memory in a pass: at 4 MiB a second it is far from having all of it. */
const LARGE = {
  memoryBytes: 96 * MIB,
  guestImage: buildBootSector({
    staticRange: { start: 2 * MIB, end: 66 * MIB },
    staticPagesPerPass: 4,
    dirtyRange: { start: 66 * MIB, end: 67 * MIB },
    checkStride: 12,
  }),
};
const SLOWLY = ["--rate-limit", "4M", "--prefetch", "off"] as const;

type Machine = Partial<Parameters<typeof guestMachine>[1]>;

async function save(
  version: QemuVersion,
  machine: Machine = {},
  live = true,
  name = "vm.ram",
): Promise<Saved> {
  const source = await startQemu(guestMachine(workDir.path, { ...machine, version }));
  await source.waitForPass(2);
  const file = workDir.file(name);
  await ramportJson(["save", "--qmp", source.qmpPath, ...(live ? ["--live"] : []), file]);
  const state = guestState(source);
  await source.kill();
  return { path: file, state };
}

const waiting = (version: QemuVersion, machine: Machine = {}): Promise<QemuMachine> =>
  startQemu(guestMachine(workDir.path, { ...machine, version, incoming: "defer" }));

const lazily = (file: string, { qmpPath }: QemuMachine, ...args: readonly string[]): string[] => [
  ...["restore", file, "--qmp", qmpPath, "--lazy", ...args],
];

const objects = async (machine: QemuMachine): Promise<readonly string[]> => {
  const list = (await machine.qmp("qom-list", { path: "/objects" })) as readonly { readonly name: string }[];
  return list.map(({ name }) => name);
};

/** Nothing of the restore is left in the QEMU. */
async function expectTidy(machine: QemuMachine, before: unknown): Promise<void> {
  expect((await migrationOf(machine)).status).toBe("completed");
  expect(await migrationSettings(machine)).toEqual(before);
  expect(await objects(machine)).not.toContain("ramport-lazy-restore");
}

async function startSlowly({ path }: Saved, machine: QemuMachine): Promise<CliRun> {
  const run = startRamport(lazily(path, machine, ...SLOWLY));
  await run.waitForMessage(/The guest is running after \d/);
  return run;
}

for (const version of ["7.2", "10.0", "11.1"] as const) {
  describeWithQemu(version, "restore --lazy", () => {
    test("records what the guest asks for, and reads it ahead the next time", async () => {
      const saved = await save(version);
      const first = await waiting(version);
      const before = await migrationSettings(first);
      const recorded = await ramportJson(lazily(saved.path, first));
      expect(recorded).toMatchObject({ mode: "lazy", resumed: false, guest: "running", preempt: true });
      expect(recorded).toMatchObject({ workingSet: { path: `${saved.path}.ws`, use: "recorded" } });
      await expectTidy(first, before);
      await expectGoesOn(first, saved.state);
      const { pages } = workingSetNumbers(readWorkingSet(`${saved.path}.ws`));
      expect(pages).toBeGreaterThan(200);
      await first.kill();
      for (const when of ["before", "after"]) {
        const again = await waiting(version);
        const args = lazily(saved.path, again, "--prefetch", when, "--preempt", "off");
        const result = await ramportJson(args);
        expect(result).toMatchObject({ preempt: false, workingSet: { use: "read-ahead", pages } });
        const { askedForPages } = result.statistics as { readonly askedForPages: number };
        if (when === "before") expect(askedForPages).toBeLessThan(pages / 10);
        await expectTidy(again, before);
        await expectGoesOn(again, saved.state);
        await again.kill();
      }
    });

    test("a ramport that was killed is replaced by the same command, and by no other file", async () => {
      const saved = await save(version, LARGE);
      const machine = await waiting(version, LARGE);
      const before = await migrationSettings(machine);
      const run = await startSlowly(saved, machine);
      await machine.waitForPass(saved.state.last.pass + 3);
      run.kill("SIGKILL");
      await run.ended;
      await expect.poll(async () => (await migrationOf(machine)).status).toBe("postcopy-paused");
      const save2 = await ramport(["save", "--qmp", machine.qmpPath, workDir.file("second.ram")]);
      expect(save2).toMatchObject({ code: 3 });
      expect(save2.stderr).toMatch(/still waits for pages of .*vm\.ram.*run the same ramport restore/);
      await expectOtherFileRefused(version, machine);
      const resumed = await ramportJson(lazily(saved.path, machine));
      expect(resumed).toMatchObject({ resumed: true, guest: "running" });
      await expectTidy(machine, before);
      await expectGoesOn(machine, saved.state);
    });
  });
}

async function expectOtherFileRefused(version: QemuVersion, machine: QemuMachine): Promise<void> {
  const { path } = await save(version, {}, true, "other.ram");
  const { code, stderr } = await ramport(lazily(path, machine));
  expect(code).toBe(2);
  expect(stderr).toMatch(/waits for pages of another snapshot: .*vm\.ram/);
  expect((await migrationOf(machine)).status).toBe("postcopy-paused");
}

describeWithQemu("10.0", "restore --lazy: what it reads from", () => {
  test("a classic stream", async () => {
    const saved = await save("10.0");
    const stream = workDir.file("vm.stream");
    await ramportJson(["convert", saved.path, stream, "--to", "stream"]);
    const machine = await waiting("10.0");
    expect(await ramportJson(lazily(stream, machine))).toMatchObject({ guest: "running" });
    await expectGoesOn(machine, saved.state);
  });

  test.each([
    ["sparse", "mapped-ram", true],
    ["raw", "stream", false],
  ] as const)("an image of libvirt's, format %s", async (_format, to, wasRunning) => {
    const saved = await save("10.0");
    const [header, image] = [workDir.file("header"), workDir.file("vm.save")];
    const domain = { complete: true, version: 2, wasRunning, format: "raw", xml: "<domain/>" } as const;
    writeFileSync(header, encodeLibvirtSaveHeader({ byteOrder: "little", ...domain }));
    await ramportJson(["convert", saved.path, image, "--to", to, "--libvirt-header", header]);
    const machine = await waiting("10.0");
    // What libvirt wrote into its header counts, not what the guest did when it was saved.
    const guest = wasRunning ? "running" : "paused";
    expect(await ramportJson(lazily(image, machine))).toMatchObject({ guest });
    if (!wasRunning) await machine.qmp("cont");
    await expectGoesOn(machine, saved.state);
  });
});

describeWithQemu("11.1", "restore --lazy: while the guest waits for pages", () => {
  test("--detach returns when the guest runs; a second restore and a save are refused until the end", async () => {
    const saved = await save("11.1", LARGE);
    const machine = await waiting("11.1", LARGE);
    const before = await migrationSettings(machine);
    const log = workDir.file("server.log");
    const args = lazily(
      saved.path,
      machine,
      "--detach",
      "--log",
      log,
      "--rate-limit",
      "16M",
      "--prefetch",
      "off",
    );
    const result = await ramportJson(args);
    expect(result).toMatchObject({ mode: "lazy", guest: "running", log });
    const pid = Number(result.pid);
    expect(await statusOf(machine)).toBe("running");
    expect((await migrationOf(machine)).status).toBe("postcopy-active");
    const second = await ramport(lazily(saved.path, machine));
    expect(second.code).toBe(3);
    expect(second.stderr).toContain(`is being served by process ${pid} on`);
    const saving = await ramport(["save", "--qmp", machine.qmpPath, workDir.file("second.ram")]);
    expect(saving.code).toBe(3);
    expect(saving.stderr).toMatch(new RegExp(`process ${pid} on .* sends them`));
    expect(await migrationEnd(machine)).toBe("completed");
    await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false);
    expect(readFileSync(log, "utf8")).toMatch(/The guest is running\n$/);
    await expectTidy(machine, before);
    await expectGoesOn(machine, saved.state);
  });

  test("one who lost its connection and lives is not replaced; its file must be what it was", async () => {
    const saved = await save("11.1", LARGE);
    // A monitor has room for one client, and a process that stands still keeps it.
    const monitor = workDir.file("second.qmp");
    const args = ["-device", "VGA", "-device", "e1000", "-qmp", `unix:${monitor},server=on,wait=off`];
    const machine = await waiting("11.1", { ...LARGE, args });
    const run = await startSlowly(saved, machine);
    run.kill("SIGSTOP");
    await machine.qmp("migrate-pause");
    await expect.poll(async () => (await migrationOf(machine)).status).toBe("postcopy-paused");
    const second = await ramport(["restore", saved.path, "--qmp", monitor, "--lazy"]);
    expect(second.code).toBe(3);
    expect(second.stderr).toContain(`is being served by process ${run.process.pid} on`);
    run.kill("SIGKILL");
    await run.ended;
    const copy = workDir.file("copy.ram");
    execFileSync("cp", ["-p", saved.path, copy]);
    utimesSync(saved.path, 1, 1);
    const written = await ramport(lazily(saved.path, machine));
    expect(written.code).toBe(2);
    expect(written.stderr).toMatch(
      /vm\.ram was written to since the guest began to run .*touch -d @\d+\.\d{9} /,
    );
    utimesSync(copy, 1, 1);
    expect((await ramport(lazily(copy, machine))).stderr).toMatch(
      /copy\.ram is no copy of .*vm\.ram as it was/,
    );
    const [, command = ""] = /(touch -d .*) \(cp -p/.exec(written.stderr) ?? [];
    execFileSync("/bin/sh", ["-c", command]);
    await ramportJson(lazily(saved.path, machine));
    await expectGoesOn(machine, saved.state);
  });

  test("a connection that breaks is taken up again", async () => {
    const saved = await save("11.1", LARGE);
    const machine = await waiting("11.1", LARGE);
    const before = await migrationSettings(machine);
    const run = startRamport([
      ...lazily(saved.path, machine, "--rate-limit", "16M", "--prefetch", "off"),
      "--json",
    ]);
    await run.waitForMessage(/The guest is running after/);
    await machine.qmp("migrate-pause");
    await run.waitForMessage(/stands again/);
    const { code, stdout, stderr } = await run.ended;
    expect(stderr).toMatch(/The connection to QEMU broke .*taking it up again/);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ statistics: { recoveries: 1 } });
    await expectTidy(machine, before);
    await expectGoesOn(machine, saved.state);
  });

  test("the first Ctrl-C goes on for the guest, the second leaves it waiting", async () => {
    const saved = await save("11.1", LARGE);
    const machine = await waiting("11.1", LARGE);
    const run = await startSlowly(saved, machine);
    run.kill("SIGINT");
    await run.waitForMessage(/The guest still needs ramport for its memory .*Ctrl-C again/);
    await machine.waitForMorePasses(2);
    run.kill("SIGINT");
    const { code, stderr } = await run.ended;
    expect(code).toBe(130);
    expect(stderr).toContain("the guest waits for its memory until the same command is run again");
    await expect.poll(async () => (await migrationOf(machine)).status).toBe("postcopy-paused");
    await ramportJson(lazily(saved.path, machine));
    await expectGoesOn(machine, saved.state);
  });

  test("a file that is written to meanwhile", async () => {
    const { path } = await save("11.1");
    const destination = await waiting("11.1");
    const qmp = await QmpClient.connect(destination.qmpPath, { oob: "auto" });
    const restoring = restoreVmLazily(qmp, path, { onGuest: () => appendFileSync(path, "more") });
    await expect(restoring).rejects.toThrow(/vm\.ram was written to while the guest's memory came from it/);
    await qmp.close();
    expect(await objects(destination)).not.toContain("ramport-lazy-restore");
  });

  test("a file that cannot be read any more: the guest waits, and goes on when it can", async () => {
    const saved = await save("11.1", LARGE);
    const machine = await waiting("11.1", LARGE);
    const whole = workDir.file("whole.ram");
    execFileSync("cp", ["-p", saved.path, whole]);
    const run = await startSlowly(saved, machine);
    truncateSync(saved.path, 4096);
    const { code, stderr } = await run.ended;
    expect(code).not.toBe(0);
    expect(stderr).toContain("The guest still waits for a part of its memory: run the same command again");
    expect(stderr).toContain("The file became shorter while it was read");
    await ramportJson(lazily(whole, machine));
    await expectGoesOn(machine, saved.state);
  });

  test("a note that a process of another machine left before it began: how to be rid of it", async () => {
    const { path } = await save("11.1");
    const machine = await waiting("11.1");
    const former = { capabilities: [], parameters: {}, channelParameters: {} };
    const file = { dev: "1", ino: "1", size: "1", mtimeNs: "1" };
    const server = { pid: 1, host: "elsewhere.invalid", id: "1" };
    const mark = { version: 2, fingerprint: "", path, offset: 0, file, server, former };
    const id = "ramport-lazy-restore";
    await machine.qmp("object-add", { "qom-type": "authz-simple", id, identity: JSON.stringify(mark) });
    const { code, stderr } = await ramport(lazily(path, machine));
    expect(code).toBe(3);
    expect(stderr).toContain("Process 1 on elsewhere.invalid is about to restore");
    const [, command = ""] = /if it is gone: (.*) in the QEMU's human monitor/.exec(stderr) ?? [];
    await machine.qmp("human-monitor-command", { "command-line": command });
    await ramportJson(lazily(path, machine));
  });

  test("a guest that was stopped stays stopped, and runs with --run", async () => {
    const saved = await save("11.1", {}, false);
    const machine = await waiting("11.1");
    expect(await ramportJson(lazily(saved.path, machine))).toMatchObject({ guest: "paused" });
    await expectStandsStill(machine, "paused");
    await machine.kill();
    const second = await waiting("11.1");
    expect(await ramportJson(lazily(saved.path, second, "--run"))).toMatchObject({ guest: "running" });
    await expectGoesOn(second, saved.state);
  });

  test("a QEMU with a guest, and one with less memory, are refused and stay as they are", async () => {
    const saved = await save("11.1");
    const running = await startQemu(guestMachine(workDir.path, { version: "11.1" }));
    const before = await migrationSettings(running);
    const refused = await ramport(lazily(saved.path, running));
    expect(refused).toMatchObject({ code: 3 });
    expect(refused.stderr).toContain("does not wait for a migration: its guest is running");
    expect(await migrationSettings(running)).toEqual(before);
    const small = await waiting("11.1", { memoryBytes: 16 * MIB });
    const { code, stderr } = await ramport(lazily(saved.path, small));
    expect(code).toBe(3);
    expect(stderr).toMatch(/less memory than the snapshot \(block pc\.ram/);
    expect(await migrationSettings(small)).toEqual(before);
  });
});
