/**
 * Mapped-ram files that the engine moves with several requests in flight, through the page cache and past it: between it and
 * real QEMUs that do the same, and between `ramport vm` processes.
 */

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

import { afterEach, describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../guests/multiboot.js";
import {
  type DirectIo,
  openOutgoing,
  OutputFile,
  parseMigrationUri,
  ReadableFile,
} from "../../src/channels/index.js";
import { loadHost, openMappedRam, saveHost } from "../../src/engine/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { type MappedRamContent, readMappedRamContent } from "../support/mapped-ram-content.js";
import { MemoryHost } from "../support/memory-host.js";
import {
  expectGoesOn,
  guestMachine,
  guestState,
  migrationSettings,
  WORKLOAD,
} from "../support/migrating-guest.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { startQemu } from "../support/qemu.js";
import { killAllVms, startVm } from "../support/vm-process.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

function memoryOf(
  host: MemoryHost,
): Pick<MappedRamContent["blocks"][number], "name" | "usedLength" | "sha256">[] {
  return host.ramBlocks().map(({ name, usedLength, segments }) => {
    const hash = createHash("sha256");
    for (const segment of segments) hash.update(segment);
    return { name, usedLength, sha256: hash.digest("hex") };
  });
}

async function load(path: string, channels: number | undefined, directIo: DirectIo): Promise<MemoryHost> {
  const file = ReadableFile.open(path, { directIo });
  try {
    const host = new MemoryHost(openMappedRam(file), () => undefined);
    // What was there before has to go.
    for (const { segments } of host.ramBlocks()) for (const segment of segments) segment.fill(0xaa);
    await loadHost(host, file, channels === undefined ? {} : { channels });
    return host;
  } finally {
    file.close();
  }
}

const WAYS = [
  [undefined, "off"],
  [1, "off"],
  [2, "off"],
  [4, "off"],
  [undefined, "required"],
  [1, "required"],
  [2, "required"],
  [4, "required"],
] as const;

describe.each(["10.0", "11.1"] as const)("mapped-ram with channels and direct I/O, QEMU %s", (version) => {
  describeWithQemu(version, "a stopped guest", () => {
    test("what QEMU wrote loads in the engine, what the engine writes loads in QEMU, and the guest goes on", async () => {
      const source = await startQemu(guestMachine(workDir.path, { version }));
      await source.waitForPass(3);
      const first = workDir.file("first.ram");
      const direct = ["--channels", "2", "--direct-io"];
      await ramportJson(["save", "--qmp", source.qmpPath, "--method", "mapped-ram", ...direct, first]);
      const state = guestState(source);
      await source.kill();
      const { blocks, devices } = readMappedRamContent(first);
      for (const [index, [channels, directIo]] of WAYS.entries()) {
        const how = `channels ${channels}, direct I/O ${directIo}`;
        const host = await load(first, channels, directIo);
        expect(memoryOf(host), how).toEqual(blocks);
        const file = workDir.file(`${index}.ram`);
        const output = OutputFile.create(file, { directIo });
        await saveHost(host, output, {
          commit: () => output.commit(),
          ...(channels === undefined ? {} : { channels }),
        });
        const written = readMappedRamContent(file);
        expect(written, how).toMatchObject({ blocks, stalePages: 0 });
        expect([...written.devices].sort()).toEqual([...devices].sort());
        if (index > 0) expect(readFileSync(file).equals(readFileSync(workDir.file("0.ram"))), how).toBe(true);
      }
      for (const how of [
        ["--method", "mapped-ram", ...direct],
        ["--method", "mapped-ram"],
        ["--method", "send", "--direct-io"],
      ]) {
        const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
        await ramportJson(["restore", workDir.file("7.ram"), "--qmp", destination.qmpPath, "--run", ...how]);
        await expectGoesOn(destination, state);
        await destination.kill();
      }
    });

    test("behind something else in a file, at an offset", async () => {
      const source = await startQemu(guestMachine(workDir.path, { version }));
      await source.waitForPass(3);
      const first = workDir.file("first.ram");
      await ramportJson(["save", "--qmp", source.qmpPath, "--method", "mapped-ram", first]);
      const state = guestState(source);
      await source.kill();
      const host = await load(first, 4, "required");
      const place = workDir.file("place");
      writeFileSync(place, "x".repeat(4321));
      const { file, sink } = await openOutgoing(parseMigrationUri(`file:${place},offset=4321`), {
        directIo: "required",
      });
      await saveHost(host, file!, { channels: 3, streamOffset: 4321, commit: () => file!.sync() });
      await sink.close();
      expect(readFileSync(place, "latin1").slice(0, 4321)).toBe("x".repeat(4321));
      const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
      const restore = ["restore", `${place},offset=4321`, "--qmp", destination.qmpPath, "--run"];
      await ramportJson([...restore, "--channels", "4", "--direct-io"]);
      await expectGoesOn(destination, state);
    });

    test("our own commands with --direct-io write what they write without", async () => {
      const source = await startQemu(guestMachine(workDir.path, { version }));
      await source.waitForPass(2);
      const first = workDir.file("first.ram");
      await ramportJson(["save", "--qmp", source.qmpPath, "--method", "mapped-ram", first]);
      await source.kill();
      const file = (name: string): string => workDir.file(name);
      const { blocks } = readMappedRamContent(first);
      await ramportJson(["convert", first, file("stream"), "--to", "stream", "--direct-io"]);
      await ramportJson(["convert", first, file("plain"), "--to", "stream"]);
      expect(readFileSync(file("stream")).equals(readFileSync(file("plain")))).toBe(true);
      await ramportJson(["receive", `file:${file("stream")}`, file("received"), "--direct-io"]);
      expect(readMappedRamContent(file("received")).blocks).toEqual(blocks);
      await ramportJson([
        "convert",
        file("stream"),
        file("converted"),
        "--to",
        "mapped-ram",
        "--direct-io=auto",
      ]);
      expect(readMappedRamContent(file("converted")).blocks).toEqual(blocks);
      await ramportJson(["copy", "--direct-io", first, file("copy")]);
      expect(readFileSync(file("copy")).equals(readFileSync(first))).toBe(true);
      const extracted = await ramportJson([
        "extract",
        first,
        "--all",
        "-o",
        file("blocks"),
        "--sha256",
        "--direct-io",
      ]);
      const hashes = (extracted as { blocks: { name: string; sha256: string }[] }).blocks;
      expect(hashes.map(({ name, sha256 }) => ({ name, sha256 }))).toEqual(
        blocks.map(({ name, sha256 }) => ({ name, sha256 })),
      );
      const sent = await ramport(["send", "--direct-io", first, `exec:cat > ${file("sent")}`]);
      expect(sent.code).toBe(0);
      expect(readFileSync(file("sent")).equals(readFileSync(file("plain")))).toBe(true);
    });
  });
});

describe("ramport vm", () => {
  afterEach(killAllVms);
  const guest = buildMultibootImage(WORKLOAD);

  test.each([
    ["buffered", []],
    ["direct", ["--direct-io"]],
  ])("saves and loads with multifd, %s; the guest runs meanwhile", async (_how, direct) => {
    const source = await startVm({ guest });
    await source.waitForPass(3);
    const settings = await migrationSettings(source);
    const file = workDir.file("vm.ram");
    const channels = ["--method", "mapped-ram", "--channels", "3", ...direct];
    await ramportJson(["save", "--qmp", source.qmpPath, "--live", ...channels, file]);
    expect(await migrationSettings(source)).toEqual(settings);
    const state = guestState(source);
    await source.quit();
    expect(readMappedRamContent(file).stalePages).toBe(0);
    const destination = await startVm({ guest, incoming: "defer" });
    expect(await ramportJson(["restore", file, "--qmp", destination.qmpPath, ...channels])).toMatchObject({
      method: "mapped-ram",
      guest: "running",
    });
    await expectGoesOn(destination, state);
  });

  test("multifd over a socket is refused when the migration begins, and the guest runs on", async () => {
    const source = await startVm({ guest });
    await source.waitForPass(2);
    await source.qmp("migrate-set-capabilities", { capabilities: [{ capability: "multifd", state: true }] });
    await expect(source.qmp("migrate", { uri: `unix:${workDir.file("nobody")}` })).rejects.toThrow(
      /multifd for mapped-ram files only/,
    );
    await source.waitForMorePasses(2);
  });
});
