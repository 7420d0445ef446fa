/** Saves that travel over several connections, from each QEMU, of a guest that runs meanwhile. */

import { describe, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  expectRunsOn,
  guestMachine,
  guestState,
  migrationSettings,
} from "../support/migrating-guest.js";
import { startQemu } from "../support/qemu.js";
import { ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

describe.each([
  ["7.2", "pc", 2, "none"],
  ["7.2", "pc", 4, "zlib"],
  ["10.0", "pc", 2, "none"],
  ["10.0", "pc", 16, "none"],
  ["10.0", "pc-i440fx-7.2", 3, "zstd"],
  ["11.1", "pc", 2, "none"],
  ["11.1", "pc", 4, "zstd"],
] as const)(
  "live save over multifd, QEMU %s, %s, %d channels, compression %s",
  (version, machineType, channels, compression) => {
    describeWithQemu(version, "guest with changing memory", () => {
      test("the file's guest goes on, and so does the one that was saved", async () => {
        const options = { version, machine: machineType };
        const machine = await startQemu(guestMachine(workDir.path, options));
        await machine.waitForPass(2);
        const settings = await migrationSettings(machine);
        const file = workDir.file("vm.ram");
        const result = await ramportJson([
          ...["save", "--qmp", machine.qmpPath, "--live", "--method", "stream", "--max-bandwidth", "100M"],
          ...["--channels", String(channels), "--multifd-compression", compression, file],
        ]);
        expect(result).toMatchObject({ method: "stream" });
        expect(await migrationSettings(machine)).toEqual(settings);
        const state = guestState(machine);
        await machine.qmp("cont");
        await expectRunsOn(machine);
        await machine.kill();

        const destination = await startQemu(guestMachine(workDir.path, { ...options, incoming: "defer" }));
        await ramportJson(["restore", file, "--qmp", destination.qmpPath, "--run"]);
        await expectGoesOn(destination, state);
      });
    });
  },
);
