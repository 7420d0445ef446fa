/** Guests live on from files that were converted: QEMU alone loads them. */
import { writeFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { encodeLibvirtSaveHeader } from "../../src/wire/index.js";
import { corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  guestMachine,
  guestState,
  type GuestState,
  loadWithQemuAlone,
  migrationEnd,
  saveWithQemuAlone,
} from "../support/migrating-guest.js";
import type { QemuVersion, StartQemuOptions } from "../support/qemu.js";
import { startQemu } from "../support/qemu.js";
import { ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

type Machine = Pick<StartQemuOptions, "version"> & Partial<StartQemuOptions>;

/** Boots the guest and saves it while it runs, as QEMU does it alone. */
async function saveAlone(
  machine: Machine,
  format: "stream" | "mapped-ram",
  file: string,
): Promise<GuestState> {
  const source = await startQemu(guestMachine(workDir.path, machine));
  await source.waitForPass(3);
  // The guest never comes to rest by itself.
  await source.qmp("migrate-set-parameters", { "max-bandwidth": 1 << 30, "downtime-limit": 2000 });
  if (format === "stream") await source.qmp("migrate", { uri: `exec:cat > ${file}` });
  else await saveWithQemuAlone(source, file);
  expect(await migrationEnd(source)).toBe("completed");
  const state = guestState(source);
  await source.kill();
  return state;
}

async function expectLoads(machine: Machine, file: string, format: string, state: GuestState): Promise<void> {
  const incoming = format === "stream" ? `exec:cat ${file}` : "defer";
  const destination = await startQemu(guestMachine(workDir.path, { ...machine, incoming }));
  if (format === "mapped-ram") await loadWithQemuAlone(destination, file);
  await expectGoesOn(destination, state);
  await destination.kill();
}

for (const version of ["10.0", "11.1"] as const satisfies readonly QemuVersion[]) {
  describeWithQemu(version, "converted in both directions", () => {
    test("a stream becomes a mapped-ram file that QEMU loads, and a stream again", async () => {
      const stream = workDir.file("vm.stream");
      const mapped = workDir.file("vm.ram");
      const state = await saveAlone({ version }, "stream", stream);
      expect(await ramportJson(["convert", stream, mapped, "--to", "mapped-ram"])).toMatchObject({
        from: { container: "qemu", format: "stream" },
        to: { container: "qemu", format: "mapped-ram" },
      });
      await expectLoads({ version }, mapped, "mapped-ram", state);
      const again = workDir.file("again.stream");
      await ramportJson(["convert", mapped, again, "--to", "stream"]);
      await expectLoads({ version }, again, "stream", state);
    });

    test("a mapped-ram file anew at an offset", async () => {
      const file = workDir.file("vm.ram");
      const state = await saveAlone({ version }, "mapped-ram", file);
      const anew = workDir.file("anew.ram");
      expect(await ramportJson(["convert", file, `${anew},offset=64K`, "--to", "mapped-ram"])).toMatchObject({
        streamOffset: 65_536,
      });
      const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
      await loadWithQemuAlone(destination, `${anew},offset=65536`);
      await expectGoesOn(destination, state);
    });
  });
}

describeWithQemu(["7.2", "10.0"], "from one version to another, machine pc-i440fx-7.2", () => {
  test("a mapped-ram file of 10.0 becomes a stream that 7.2 loads", async () => {
    const machine = "pc-i440fx-7.2";
    const file = workDir.file("vm.ram");
    const state = await saveAlone({ version: "10.0", machine }, "mapped-ram", file);
    const stream = workDir.file("vm.stream");
    await ramportJson(["convert", file, stream, "--to", "stream"]);
    await expectLoads({ version: "7.2", machine }, stream, "stream", state);
  });
});

/** A libvirt image around nothing: its header is what `--libvirt-header` takes. */
function headerOnly(file: string): string {
  const xml = "<domain type='qemu'><name>guest</name></domain>";
  const header = {
    byteOrder: "little",
    complete: true,
    version: 2,
    wasRunning: true,
    format: "raw",
    xml,
  } as const;
  writeFileSync(file, encodeLibvirtSaveHeader(header));
  return file;
}

describe.each([
  ["10.0", "stream", "raw"],
  ["10.0", "mapped-ram", "sparse"],
  ["11.1", "stream", "raw"],
  ["11.1", "mapped-ram", "sparse"],
] as const)("QEMU %s, in a libvirt image: %s, format %s", (version, format, packed) => {
  describeWithQemu(version, "guest with changing memory", () => {
    test("the guest lives on from what is taken out of the image, in either form", async () => {
      const saved = workDir.file("vm.saved");
      const state = await saveAlone({ version }, format, saved);
      const image = workDir.file("vm.libvirt");
      const header = headerOnly(workDir.file("header"));
      await ramportJson(["convert", saved, image, "--to", format, "--libvirt-header", header]);
      expect(await ramportJson(["info", image])).toMatchObject({
        container: "libvirt",
        libvirt: { format: packed, domain: "guest", wasRunning: true },
      });
      for (const to of ["mapped-ram", "stream"] as const) {
        const file = workDir.file(`out.${to}`);
        await ramportJson(["convert", image, file, "--to", to]);
        await expectLoads({ version }, file, to, state);
      }
    });
  });
});

describeWithCorpus("what libvirt saved", () => {
  describeWithQemu("11.1", "out of its image", () => {
    test.each([
      ["lv113-sparse", "mapped-ram"],
      ["lv113-sparse", "stream"],
      ["lv113-xz", "mapped-ram"],
    ] as const)("%s as a %s loads in QEMU alone", async (name, to) => {
      const file = workDir.file("vm.ram");
      await ramportJson(["convert", corpusPath(corpusFile(name)), file, "--to", to]);
      const disk = workDir.file("disk");
      writeFileSync(disk, Buffer.alloc(1 << 20));
      // The devices of the domain's XML, as libvirt starts them.
      const destination = await startQemu({
        version: "11.1",
        workDir: workDir.path,
        machine: "pc-i440fx-11.1",
        memoryBytes: 24 << 20,
        incoming: to === "stream" ? `exec:cat ${file}` : "defer",
        args: [
          ...["-cpu", "qemu64", "-device", "piix3-usb-uhci,addr=0x1.0x2"],
          ...[
            "-drive",
            `file=${disk},format=raw,if=none,id=disk`,
            "-device",
            "ide-hd,bus=ide.0,unit=0,drive=disk",
          ],
        ],
      });
      if (to === "mapped-ram") await loadWithQemuAlone(destination, file);
      expect(await migrationEnd(destination)).toBe("completed");
      await destination.kill();
    });
  });
});
