/**
 * A running guest that changes its memory is saved, and lives on from the file: with and without ramport, in the same
 * QEMU and in another one.
 */

import { closeSync, openSync, readdirSync, readSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test, vi } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import { readMappedRamContent } from "../support/mapped-ram-content.js";
import {
  expectGoesOn,
  type GuestState,
  guestMachine,
  guestState,
  loadWithQemuAlone,
  migrationEnd,
  saveWithQemuAlone,
  WORKLOAD,
} from "../support/migrating-guest.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import type { QemuMachine, QemuVersion, StartQemuOptions } from "../support/qemu.js";
import { startQemu } from "../support/qemu.js";
import { buildStream } from "../support/stream-builder.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** Boots the guest, saves it while it runs, and ends it. */
async function saveLive(
  version: QemuVersion,
  method: "stream" | "mapped-ram",
  machine: Partial<StartQemuOptions> = {},
): Promise<{ readonly file: string; readonly state: GuestState; readonly result: Record<string, unknown> }> {
  const file = workDir.file("vm.ram");
  const source = await startQemu(guestMachine(workDir.path, { version, ...machine }));
  await source.waitForPass(3);
  const before = source.passes().at(-1)!.pass;
  const result = await ramportJson([
    ...["save", "--qmp", source.qmpPath, "--live", "--method", method, "--stop-after", "10"],
    file,
  ]);
  const state = guestState(source);
  expect(state.last.pass).toBeGreaterThanOrEqual(before);
  await source.kill();
  expect(result).toMatchObject({ method, guest: "stopped", path: file });
  return { file, state, result };
}

/** Loads the file in a fresh machine in the way given; the guest goes on. */
async function expectLoads(
  how: "QEMU alone" | "restore" | "restore by sending" | "send",
  file: string,
  state: GuestState,
  machine: Pick<StartQemuOptions, "version"> & Partial<StartQemuOptions>,
): Promise<void> {
  const socket = workDir.file(`in-${Math.random().toString(36).slice(2)}`);
  const destination = await startQemu(
    guestMachine(workDir.path, { ...machine, incoming: how === "send" ? `unix:${socket}` : "defer" }),
  );
  switch (how) {
    case "QEMU alone":
      await loadWithQemuAlone(destination, file);
      break;
    case "restore":
      expect(await ramportJson(["restore", file, "--qmp", destination.qmpPath])).toMatchObject({
        method: "mapped-ram",
        guest: "running",
      });
      break;
    case "restore by sending":
      expect(
        await ramportJson(["restore", file, "--qmp", destination.qmpPath, "--method", "send"]),
      ).toMatchObject({ method: "send", guest: "running" });
      break;
    case "send":
      expect(await ramportJson(["send", file, `unix:${socket}`])).toMatchObject({ confirmed: true });
      break;
  }
  await expectGoesOn(destination, state);
  await destination.kill();
}

/** How often QEMU has looked for changed pages since the migration began. */
async function syncCount(machine: QemuMachine): Promise<number> {
  const { ram } = (await machine.qmp("query-migrate")) as { ram?: { "dirty-sync-count": number } };
  return ram?.["dirty-sync-count"] ?? 0;
}

/** Whether a file that is being written has, or had, content of the toggling pages. */
function holdsTogglingContent(file: string): boolean {
  // The first block is RAM, and QEMU puts the pages of the first block at 1 MiB.
  const { start, end } = WORKLOAD.togglingRange!;
  const bytes = Buffer.alloc(end - start);
  const fd = openSync(file, "r");
  try {
    readSync(fd, bytes, 0, bytes.length, (1 << 20) + start);
  } finally {
    closeSync(fd);
  }
  return bytes.some((byte) => byte !== 0);
}

/** Whether a stopped guest's toggling pages are all zero: it goes through them from the first word to the last. */
async function isTogglingRangeZero(machine: QemuMachine): Promise<boolean> {
  const { start, end } = WORKLOAD.togglingRange!;
  for (const address of [start, end - 4]) {
    const command = { "command-line": `xp /1wx ${address}` };
    const text = (await machine.qmp("human-monitor-command", command)) as string;
    if (!/: 0x00000000\s*$/.test(text)) return false;
  }
  return true;
}

describe.each(["10.0", "11.1"] as const)("live save from QEMU %s", (version) => {
  describeWithQemu(version, "guest with static, changing and toggling memory, VGA and e1000", () => {
    test.each(["stream", "mapped-ram"] as const)(
      "method %s; loads in QEMU alone, by restore, by restore --method send and by send",
      async (method) => {
        const { file, state, result } = await saveLive(version, method);
        expect(readdirSync(path.dirname(file)).filter((name) => name.includes("vm.ram"))).toEqual(["vm.ram"]);
        const content = readMappedRamContent(file);
        expect(content.stalePages).toBe(0);
        expect(content.blocks.map(({ name }) => name)).toEqual(
          expect.arrayContaining([
            "pc.ram",
            expect.stringContaining("vga.vram"),
            expect.stringContaining("e1000.rom"),
          ]),
        );
        expect(result.ramBytes).toBe(content.blocks.reduce((sum, block) => sum + block.usedLength, 0));
        for (const how of ["QEMU alone", "restore", "restore by sending", "send"] as const) {
          await expectLoads(how, file, state, { version });
        }
      },
    );
  });

  describeWithQemu(version, "pages that become zero while they are saved", () => {
    test("QEMU's own file keeps their old bytes: what the next test looks for exists", async () => {
      const source = await startQemu(guestMachine(workDir.path, { version }));
      await source.waitForPass(3);
      // It does not end by itself: memory is written several times, while it is dense and while it is zero.
      await source.qmp("migrate-set-parameters", { "max-bandwidth": 8 << 20, "downtime-limit": 1 });
      const file = workDir.file("own.ram");
      await saveWithQemuAlone(source, file);
      const isWritten = async (): Promise<boolean> =>
        (await syncCount(source)) >= 4 && holdsTogglingContent(file);
      await vi.waitUntil(isWritten, { timeout: 60_000 });
      // The guest stands still where its pages are zero: that is how they are at the end.
      await source.qmp("stop");
      while (!(await isTogglingRangeZero(source))) {
        await source.qmp("cont");
        await source.waitForMorePasses(1);
        await source.qmp("stop");
      }
      expect(await migrationEnd(source)).toBe("completed");
      const { stalePages } = readMappedRamContent(file);
      expect(stalePages).toBeGreaterThan(0);
    });

    test.each(["stream", "mapped-ram"] as const)("ramport's file, method %s, has none", async (method) => {
      const source = await startQemu(guestMachine(workDir.path, { version }));
      await source.waitForPass(3);
      // Slow enough for several passes of the guest, and a pause that is allowed to be long: it comes to an end.
      await source.qmp("migrate-set-parameters", { "downtime-limit": 1500 });
      const file = workDir.file("vm.ram");
      for (let round = 0; round < 3; round++) {
        await ramportJson([
          ...["save", "--qmp", source.qmpPath, "--live", "--method", method],
          ...["--max-bandwidth", "24M", "--resume", "--force", file],
        ]);
        expect(readMappedRamContent(file).stalePages).toBe(0);
      }
    });
  });
});

describeWithQemu("7.2", "live save from QEMU 7.2, which knows no mapped-ram", () => {
  test("method auto takes the stream; loads by restore and by send", async () => {
    const source = await startQemu(guestMachine(workDir.path, { version: "7.2" }));
    await source.waitForPass(3);
    const file = workDir.file("vm.ram");
    const result = await ramportJson(["save", "--qmp", source.qmpPath, "--live", file]);
    const state = guestState(source);
    await source.kill();
    expect(result).toMatchObject({ method: "stream", machine: "pc-i440fx-7.2" });
    await expectLoads("restore by sending", file, state, { version: "7.2" });
    await expectLoads("send", file, state, { version: "7.2" });
    // Asked for nothing, restore takes what this QEMU can do.
    const destination = await startQemu(guestMachine(workDir.path, { version: "7.2", incoming: "defer" }));
    expect(await ramportJson(["restore", file, "--qmp", destination.qmpPath])).toMatchObject({
      method: "send",
    });
    await expectGoesOn(destination, state);
  });

  test.each([
    ["save", ["save", "--method", "mapped-ram"]],
    ["restore", ["restore", "--method", "mapped-ram"]],
  ])("%s --method mapped-ram says what this QEMU cannot do", async (command, args) => {
    const machine = await startQemu(
      guestMachine(workDir.path, {
        version: "7.2",
        paused: true,
        ...(command === "restore" ? { incoming: "defer" } : {}),
      }),
    );
    const file = workDir.file("vm.ram");
    if (command === "restore") await writeEmptySnapshot(file);
    const result = await ramport([...args, "--qmp", machine.qmpPath, file]);
    expect(result).toMatchObject({ code: 3, stderr: expect.stringContaining("older than 9.0") as string });
  });
});

describeWithQemu(["7.2", "10.0"], "from one version to another, machine pc-i440fx-7.2", () => {
  const machine = "pc-i440fx-7.2";

  test("saved by 7.2 as a stream, loaded in 10.0 by QEMU alone, by restore and by sending", async () => {
    const { file, state } = await saveLive("7.2", "stream", { machine });
    for (const how of ["QEMU alone", "restore", "restore by sending"] as const) {
      await expectLoads(how, file, state, { version: "10.0", machine });
    }
  });

  test("saved by 10.0 as mapped-ram, sent into 7.2", async () => {
    const { file, state } = await saveLive("10.0", "mapped-ram", { machine });
    await expectLoads("restore by sending", file, state, { version: "7.2", machine });
    await expectLoads("send", file, state, { version: "7.2", machine });
  });
});

/** A file that restore gets past its first look with. */
async function writeEmptySnapshot(file: string): Promise<void> {
  const stream = workDir.file("stream");
  writeFileSync(stream, buildStream().bytes);
  expect(await ramport(["receive", `file:${stream}`, file])).toMatchObject({ code: 0 });
}
