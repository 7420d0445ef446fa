/**
 * `ramport save` and `ramport restore` on `ramport vm` processes, which they take for QEMUs: by both methods, with a
 * guest that checks its own memory.
 */

import { afterEach, describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../guests/multiboot.js";
import { readMappedRamContent } from "../support/mapped-ram-content.js";
import {
  expectGoesOn,
  expectRunsOn,
  expectStandsStill,
  guestState,
  migrationEnd,
  migrationSettings,
  setCapabilities,
  statusOf,
  WORKLOAD,
} from "../support/migrating-guest.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { killAllVms, startVm } from "../support/vm-process.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const guest = buildMultibootImage(WORKLOAD);

const SAVE_METHODS = ["mapped-ram", "stream"] as const;
const RESTORE_METHODS = ["mapped-ram", "send"] as const;

afterEach(killAllVms);

describe.each(SAVE_METHODS)("save --method %s", (method) => {
  test("of a running guest, which lives on from the file by both ways of restoring", async () => {
    const source = await startVm({ guest });
    await source.waitForPass(3);
    const settings = await migrationSettings(source);
    const file = workDir.file("vm.ram");
    const before = source.passes().at(-1)!.pass;
    const result = await ramportJson(["save", "--qmp", source.qmpPath, "--live", "--method", method, file]);
    expect(result).toMatchObject({ method, guest: "stopped", machine: "v86" });
    expect(await migrationSettings(source)).toEqual(settings);
    await expectStandsStill(source, "postmigrate");
    const state = guestState(source);
    expect(state.last.pass).toBeGreaterThanOrEqual(before);
    await source.quit();
    expect(readMappedRamContent(file).stalePages).toBe(0);
    for (const how of RESTORE_METHODS) {
      const destination = await startVm({ guest, incoming: "defer" });
      const restored = await ramportJson(["restore", file, "--qmp", destination.qmpPath, "--method", how]);
      expect(restored).toMatchObject({ method: how, guest: "running" });
      await expectGoesOn(destination, state);
      await destination.kill();
    }
  });

  test("of a stopped guest; --then decides what it does", async () => {
    const source = await startVm({ guest });
    await source.waitForPass(3);
    const file = workDir.file("vm.ram");
    expect(
      await ramportJson(["save", "--qmp", source.qmpPath, "--resume", "--method", method, file]),
    ).toMatchObject({ guest: "running" });
    await expectRunsOn(source);
    await ramportJson(["save", "--qmp", source.qmpPath, "--force", "--method", method, file]);
    const state = guestState(source);
    // It was stopped before it was saved, so it comes stopped.
    const still = await startVm({ guest, incoming: "defer" });
    expect(await ramportJson(["restore", file, "--qmp", still.qmpPath])).toMatchObject({ guest: "paused" });
    await expectStandsStill(still, "paused");
    await still.qmp("cont");
    await expectGoesOn(still, state);
    await still.kill();
    const runs = await startVm({ incoming: "defer" });
    expect(await ramportJson(["restore", file, "--qmp", runs.qmpPath, "--run"])).toMatchObject({
      guest: "running",
    });
    await expectGoesOn(runs, state);
    expect(await statusOf(source)).toBe("postmigrate");
  });
});

test("a restored guest can be saved again, and a guest that was saved goes on after cont", async () => {
  const first = await startVm({ guest });
  await first.waitForPass(2);
  const file = workDir.file("vm.ram");
  await ramportJson(["save", "--qmp", first.qmpPath, "--live", file]);
  const refused = await ramport(["save", "--qmp", first.qmpPath, "--live", workDir.file("again.ram")]);
  expect(refused).toMatchObject({ code: 3, stderr: expect.stringContaining("after cont") as string });
  const second = await startVm({ guest, incoming: "defer" });
  await ramportJson(["restore", file, "--qmp", second.qmpPath]);
  await second.waitForMorePasses(2);
  await ramportJson(["save", "--qmp", second.qmpPath, "--live", "--force", file]);
  const state = guestState(second);
  const third = await startVm({ guest, incoming: "defer" });
  await ramportJson(["restore", file, "--qmp", third.qmpPath, "--method", "send"]);
  await expectGoesOn(third, state);
  await first.qmp("cont");
  await expectRunsOn(first);
});

test("a file that is damaged, or of another machine, is refused, and the waiting machine says so", async () => {
  const source = await startVm({ guest });
  await source.waitForPass(2);
  const file = workDir.file("vm.ram");
  await ramportJson(["save", "--qmp", source.qmpPath, "--resume", file]);
  const other = await startVm({ memoryBytes: 64 << 20, incoming: "defer" });
  const refused = await ramport(["restore", file, "--qmp", other.qmpPath]);
  expect(refused).toMatchObject({ code: 3, stderr: expect.stringContaining("pc.ram") as string });
  expect(await other.qmp("query-migrate")).toMatchObject({
    status: "failed",
    "error-desc": expect.stringContaining("pc.ram") as string,
  });
  expect(await statusOf(other)).toBe("inmigrate");
  await expectRunsOn(source);
});

test.each(["unix", "tcp"])(
  "a live migration over a %s socket, from one process into another",
  async (kind) => {
    const source = await startVm({ guest });
    await source.waitForPass(3);
    const socket = kind === "unix" ? `unix:${workDir.file("migration")}` : "tcp:127.0.0.1:0";
    const destination = await startVm({ guest, incoming: socket });
    const { "socket-address": addresses } = (await destination.qmp("query-migrate")) as {
      "socket-address": readonly { readonly port?: string }[];
    };
    const uri = kind === "unix" ? socket : `tcp:127.0.0.1:${addresses[0]?.port ?? ""}`;
    await setCapabilities(source, "return-path", "events");
    await source.qmp("migrate", { uri });
    expect(await migrationEnd(source)).toBe("completed");
    expect(await statusOf(source)).toBe("postmigrate");
    await expectGoesOn(destination, guestState(source));
    expect(await statusOf(destination)).toBe("running");
    const names = source.events.map(({ event, data }) =>
      event === "MIGRATION" ? (data as { status: string }).status : event,
    );
    expect(names.filter((name) => name !== "MIGRATION_PASS")).toEqual([
      "setup",
      "active",
      "STOP",
      "device",
      "completed",
    ]);
    expect(names.filter((name) => name === "MIGRATION_PASS").length).toBeGreaterThanOrEqual(2);
    expect(destination.events.map(({ event }) => event)).toEqual(["RESUME"]);
  },
);

test("with x-ignore-shared and a file that both machines map, only devices and video memory travel", async () => {
  const memory = ["-mem-path", workDir.file("ram"), "-mem-share", "on"];
  const source = await startVm({ guest, args: memory });
  await source.waitForPass(3);
  const uri = `unix:${workDir.file("migration")}`;
  const destination = await startVm({ guest, incoming: "defer", args: memory });
  await setCapabilities(source, "x-ignore-shared");
  await setCapabilities(destination, "x-ignore-shared");
  await destination.qmp("migrate-incoming", { uri });
  await source.qmp("migrate", { uri });
  expect(await migrationEnd(source)).toBe("completed");
  const { ram } = (await source.qmp("query-migrate")) as { ram: { transferred: number; total: number } };
  expect(ram.total).toBe(1 << 20);
  expect(ram.transferred).toBeLessThan(3 << 20);
  const state = guestState(source);
  await expectGoesOn(destination, state);
  expect(guestState(source)).toEqual(state);
});

test("with validate-uuid a machine of another UUID is refused, and the guest runs on", async () => {
  const uuid = (last: string): string[] => ["-uuid", `550e8400-e29b-41d4-a716-44665544000${last}`];
  const capabilities = ["validate-uuid", "return-path"];
  const source = await startVm({ guest, args: uuid("0") });
  await source.waitForPass(2);
  await setCapabilities(source, ...capabilities);
  for (const [last, end] of [
    ["1", "failed"],
    ["0", "completed"],
  ] as const) {
    const uri = `unix:${workDir.file(last)}`;
    const destination = await startVm({ guest, incoming: "defer", args: uuid(last) });
    await setCapabilities(destination, ...capabilities);
    await destination.qmp("migrate-incoming", { uri, "exit-on-error": false });
    await source.qmp("migrate", { uri });
    expect(await migrationEnd(source)).toBe(end);
    if (end === "failed") await expectRunsOn(source);
    else await expectGoesOn(destination, guestState(source));
  }
});
