/** Mapped-ram files into waiting QEMUs, with their pages over connections of their own. */

import { describe, expect, test } from "vitest";

import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  type GuestState,
  guestMachine,
  guestState,
  migrationSettings,
  setCapabilities,
} from "../support/migrating-guest.js";
import { ramport, ramportJson, startRamport } from "../support/ramport-cli.js";
import { type QemuMachine, startQemu, type StartQemuOptions } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const UUID = "550e8400-e29b-41d4-a716-446655440000";

interface Saved {
  readonly file: string;
  readonly state: GuestState;
}

async function saved(machine: StartQemuOptions): Promise<Saved> {
  const source = await startQemu(machine);
  await source.waitForPass(2);
  const file = workDir.file("vm.ram");
  await ramportJson(["save", "--qmp", source.qmpPath, "--live", file]);
  const state = guestState(source);
  await source.kill();
  return { file, state };
}

/** A QEMU that waits at a port with so many channels; returns its URI. */
async function listenWithMultifd(
  machine: QemuMachine,
  channels: number,
  parameters: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  await setCapabilities(machine, "multifd");
  await machine.qmp("migrate-set-parameters", { "multifd-channels": channels, ...parameters });
  await machine.qmp("migrate-incoming", { uri: "tcp:127.0.0.1:0" });
  const info = (await machine.qmp("query-migrate")) as { "socket-address": { port: string }[] };
  return `tcp:127.0.0.1:${info["socket-address"][0]!.port}`;
}

describe.each([
  // Synced at the end of each section, then once a round.
  ["7.2", "pc-i440fx-7.2"],
  ["10.0", "pc-i440fx-7.2"],
  ["10.0", "pc-i440fx-10.0"],
  ["11.1", "pc-i440fx-7.2"],
  ["11.1", "pc"],
] as const)("QEMU %s, machine %s", (version, type) => {
  const machine = (options: Partial<StartQemuOptions> = {}): StartQemuOptions =>
    guestMachine(workDir.path, { version, machine: type, ...options });

  describeWithQemu(version, "several channels", () => {
    test("restore --channels 1, 2, 4, 16: the guest goes on, and the settings are as before", async () => {
      const { file, state } = await saved(machine());
      for (const channels of [1, 2, 4, 16]) {
        const destination = await startQemu(machine({ incoming: "defer" }));
        const before = await migrationSettings(destination);
        const args = ["restore", file, "--qmp", destination.qmpPath, "--method", "send"];
        const result = await ramportJson([...args, "--channels", String(channels)]);
        expect(result).toMatchObject({ method: "send", guest: "running" });
        await expectGoesOn(destination, state);
        expect(await migrationSettings(destination)).toEqual(before);
        await destination.kill();
      }
    });

    test.each([1, 4, 32])("send --channels %i over TCP", async (channels) => {
      const { file, state } = await saved(machine());
      const destination = await startQemu(machine({ incoming: "defer" }));
      const uri = await listenWithMultifd(destination, channels);
      const result = await ramportJson(["send", file, uri, "--channels", String(channels)]);
      expect(result).toMatchObject({ confirmed: true });
      await expectGoesOn(destination, state);
    });

    test("a machine with a UUID: restore asks for it, send is told; another one is refused", async () => {
      const withUuid = machine({ args: [...(machine().args ?? []), "-uuid", UUID] });
      const { file, state } = await saved(withUuid);
      const first = await startQemu({ ...withUuid, incoming: "defer" });
      await ramportJson(["restore", file, "--qmp", first.qmpPath, "--method", "send", "--channels", "2"]);
      await expectGoesOn(first, state);
      await first.kill();

      const second = await startQemu({ ...withUuid, incoming: "defer" });
      const uri = await listenWithMultifd(second, 2);
      await ramportJson(["send", file, uri, "--channels", "2", "--uuid", UUID]);
      await expectGoesOn(second, state);
      await second.kill();

      const third = await startQemu({ ...withUuid, incoming: "defer" });
      const refusing = await listenWithMultifd(third, 2);
      const refused = await ramport(["send", file, refusing, "--channels", "2"]);
      expect(refused.code, refused.stderr).toBe(3);
      expect(refused.stderr).toMatch(
        /^ramport: The destination (?:closed|took) [^\n]*own error says why[^\n]*UUID[^\n]*\n$/,
      );
    });

    test.each(["zlib", "zstd"])("compressed with %s", async (method) => {
      const { file, state } = await saved(machine());
      const destination = await startQemu(machine({ incoming: "defer" }));
      const args = ["restore", file, "--qmp", destination.qmpPath, "--channels", "3"];
      await ramportJson([...args, "--multifd-compression", method]);
      await expectGoesOn(destination, state);
    });
  });
});

describeWithQemu("10.0", "channels that do not fit", () => {
  const machine = (options: Partial<StartQemuOptions> = {}): StartQemuOptions =>
    guestMachine(workDir.path, { version: "10.0", ...options });

  test("to a QEMU without multifd", async () => {
    const { file } = await saved(machine());
    const destination = await startQemu(machine({ incoming: `unix:${workDir.file("in")}` }));
    const result = await ramport(["send", file, `unix:${workDir.file("in")}`, "--channels", "4"]);
    expect(result.code, result.stderr).toBe(3);
    expect(result.stderr).toMatch(/^ramport: The destination [^\n]*multifd[^\n]*\n$/);
    await destination.kill();
  });

  test("more than the destination has", async () => {
    const { file } = await saved(machine());
    const destination = await startQemu(machine({ incoming: "defer" }));
    const uri = await listenWithMultifd(destination, 2);
    const result = await ramport(["send", file, uri, "--channels", "4"]);
    expect(result.code, result.stderr).toBe(3);
    expect(result.stderr).toMatch(/^ramport: The destination [^\n]*multifd[^\n]*\n$/);
  });

  test.each([
    ["fewer than the destination has", ["--channels", "2"], 3],
    ["synced in another way", ["--channels", "2", "--multifd-sync", "section"], 2],
  ])("%s: it says why nothing moves, and Ctrl-C ends it", async (_what, args, channels) => {
    const { file } = await saved(machine());
    const destination = await startQemu(machine({ incoming: "defer" }));
    const uri = await listenWithMultifd(destination, channels);
    const run = startRamport(["send", file, uri, ...args]);
    await run.waitForMessage(/taken nothing for .* multifd-channels is not 2.*--multifd-sync/, 40_000);
    run.kill("SIGINT");
    expect((await run.ended).code).toBe(130);
  });

  test("compressed otherwise than the destination expects", async () => {
    const { file } = await saved(machine());
    const destination = await startQemu(machine({ incoming: "defer" }));
    const uri = await listenWithMultifd(destination, 2, { "multifd-compression": "zlib" });
    const run = startRamport(["send", file, uri, "--channels", "2"]);
    // QEMU closes the channels; when everything was sent by then, it only never answers.
    const silence = run.waitForMessage(/taken nothing/, 40_000).then(
      () => run.kill("SIGINT"),
      () => undefined,
    );
    const result = await run.ended;
    await silence;
    expect(result.code).toBeOneOf([3, 130]);
    expect(result.stderr).toMatch(/multifd-compression/);
  });

  test("restore to another machine: QEMU's own reason", async () => {
    const { file } = await saved(machine());
    const destination = await startQemu(machine({ incoming: "defer", args: ["-device", "VGA"] }));
    const args = ["restore", file, "--qmp", destination.qmpPath, "--method", "send", "--channels", "4"];
    const result = await ramport(args);
    expect(result.code, result.stderr).toBe(3);
    expect(result.stderr).toMatch(/^ramport: QEMU's migration failed: [^\n]*\n$/);
  });
});
