/**
 * The file that ramport writes out of a stream is, byte for byte, the one that QEMU itself writes of the same guest.
 */

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { ReadableFile } from "../../src/channels/index.js";
import { openMappedRam } from "../../src/engine/index.js";
import { ByteWriter, RamFlag, SectionType } from "../../src/wire/index.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { readMappedRamContent } from "../support/mapped-ram-content.js";
import { guestMachine } from "../support/migrating-guest.js";
import { ramportJson } from "../support/ramport-cli.js";
import { startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

describe.each(["10.0", "11.1"] as const)("layout of a stopped guest's file, QEMU %s", (version) => {
  describeWithQemu(version, "saved by QEMU, restored, and saved from there", () => {
    test.each([
      ["pc", "VGA and e1000", ["-device", "VGA", "-device", "e1000"]],
      ["q35", "VGA and e1000", ["-device", "VGA", "-device", "e1000"]],
      [
        "pc",
        "two memory devices",
        ["-object", "memory-backend-ram,id=more,size=8M", "-device", "pc-dimm,memdev=more"],
      ],
    ])("machine %s, %s: the same by stream and by mapped-ram", async (machine, _devices, args) => {
      const hotplug = args.includes("pc-dimm,memdev=more") ? ["-m", "slots=1,maxmem=128M"] : [];
      // Otherwise the clock's registers tell the host's time, whatever the guest does.
      const clock = ["-rtc", "clock=vm"];
      const options = { version, machine, args: [...clock, ...hotplug, ...args] };
      const source = await startQemu(guestMachine(workDir.path, options));
      await source.waitForPass(3);
      const first = workDir.file("a.ram");
      await ramportJson(["save", "--qmp", source.qmpPath, "--method", "mapped-ram", first]);
      await source.kill();
      const files: Record<string, Buffer> = {};
      for (const method of ["stream", "mapped-ram"]) {
        const machineTwo = await startQemu(guestMachine(workDir.path, { ...options, incoming: "defer" }));
        await ramportJson(["restore", first, "--qmp", machineTwo.qmpPath, "--paused"]);
        const file = workDir.file(`${method}.ram`);
        await ramportJson(["save", "--qmp", machineTwo.qmpPath, "--method", method, file]);
        files[method] = withOnePart(file);
        await machineTwo.kill();
      }
      expect(readMappedRamContent(first).blocks.length).toBeGreaterThan(5);
      expect(readMappedRamContent(first).presentPages).toBeGreaterThan(3000);
      const expected = withOnePart(first);
      expect(files.stream!.equals(expected), "by stream, compared with the first").toBe(true);
      expect(files["mapped-ram"]!.equals(expected), "by mapped-ram, compared with the first").toBe(true);
    });
  });
});

/**
 * The file's bytes, with one PART where QEMU wrote several. They hold nothing: QEMU writes one for each 50 ms that it
 * took, so a busy machine makes more of them than an idle one.
 */
function withOnePart(path: string): Buffer {
  const file = ReadableFile.open(path);
  const skeleton = openMappedRam(file);
  file.close();
  const bytes = readFileSync(path);
  const frame = Buffer.concat([
    Buffer.from(new ByteWriter().u8(SectionType.PART).u32(skeleton.ram.id).u64(RamFlag.EOS).finish()),
    Buffer.from(new ByteWriter().u8(SectionType.FOOTER).u32(skeleton.ram.id).finish()),
  ]);
  // Behind the end of START: EOS and footer.
  const start = skeleton.blockListEndOffset + 13;
  let end = start;
  while (bytes.subarray(end, end + frame.length).equals(frame)) end += frame.length;
  expect(end, "there is a PART").toBeGreaterThan(start);
  return Buffer.concat([bytes.subarray(0, start + frame.length), bytes.subarray(end)]);
}
