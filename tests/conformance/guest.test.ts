/**
 * The guests themselves: they run in every QEMU, they see damage, and they live on after a migration that ramport has
 * no part in. What the other conformance tests conclude from the guests rests on this.
 */

import { closeSync, openSync, statSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";

import { buildBootSector } from "../../guests/boot-sector.js";
import { buildMultibootImage } from "../../guests/multiboot.js";
import { parseSerialReport } from "../../guests/serial-report.js";
import type { WorkloadOptions } from "../../guests/workload.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { QEMU_VERSIONS, startQemu } from "../support/qemu.js";
import type { QemuMachine, StartQemuOptions } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const MIB = 1 << 20;
/** 4354 pages: no multiple of 64. */
const MEMORY = 17416 * 1024;

const WORKLOAD: WorkloadOptions = {
  staticRange: { start: 2 * MIB, end: 6 * MIB },
  staticPagesPerPass: 1024,
  dirtyRange: { start: 6 * MIB, end: 8 * MIB },
  togglingRange: { start: 8 * MIB, end: 10 * MIB },
};

const workDir = useWorkDir();

/** Polls until the migration has ended, and returns how. */
async function migrationEnd(machine: QemuMachine): Promise<string> {
  for (;;) {
    const { status } = (await machine.qmp("query-migrate")) as { status?: string };
    if (status === "completed" || status === "failed") return status;
    await sleep(50);
  }
}

describe.each(QEMU_VERSIONS)("guest in QEMU %s", (version) => {
  describeWithQemu(version, "boots", () => {
    test.each([
      ["boot disk", buildBootSector],
      ["Multiboot image", buildMultibootImage],
    ])("%s", async (_kind, build) => {
      const machine = await startQemu({
        version,
        memoryBytes: MEMORY,
        guestImage: build(WORKLOAD),
        workDir: workDir.path,
      });
      const report = await machine.waitForPass(6);
      expect(machine.passes()[0]).toEqual({ id: report.id, pass: 1 });
      expect(machine.serial.startId).toBe(report.id);
    });
  });

  describeWithQemu(version, "sees a changed byte", () => {
    test.each([
      ["static", 5 * MIB + 4092],
      ["dirty", 6 * MIB],
      ["toggling", 10 * MIB - 1],
    ])("in the %s range", async (_name, address) => {
      const ram = workDir.file("ram");
      const machine = await startQemu({
        version,
        machine: "pc,memory-backend=ram",
        memoryBytes: MEMORY,
        guestImage: buildBootSector(WORKLOAD),
        workDir: workDir.path,
        args: ["-object", `memory-backend-file,id=ram,size=${MEMORY},mem-path=${ram},share=on`],
      });
      await machine.waitForPass(3);
      // The machine's RAM is this file. Once is not enough: a write may hold what is there already, or come in the
      // middle of a pass and be overwritten before the next check.
      const fd = openSync(ram, "r+");
      const seen = expect(machine.waitForMorePasses(1_000_000)).rejects.toThrow(/found wrong memory/);
      const before = machine.serial.text.length;
      for (let value = 0; !machine.serial.text.includes("BAD", before); value++) {
        writeSync(fd, Uint8Array.of(value), 0, 1, address);
        await sleep(5);
      }
      closeSync(fd);
      await seen;
      expect(() => machine.passes()).toThrow(/found wrong memory/);
      // Never forgotten: no good report comes any more.
      const since = (): string => machine.serial.text.slice(machine.serial.text.indexOf("BAD"));
      await expect.poll(() => since().split("\n").length).toBeGreaterThan(3);
      const after = since();
      expect(after).not.toContain("ok");
      const found = /addr=([0-9A-F]{8})/.exec(after)?.[1] ?? "";
      expect(Number.parseInt(found, 16)).toBe(address - (address % 4));
    });
  });
});

describeWithQemu(["7.2", "10.0", "11.1"], "migration by QEMU alone", () => {
  test.each([
    ["7.2", "10.0"],
    ["10.0", "10.0"],
    ["10.0", "11.1"],
    ["11.1", "7.2"],
  ] as const)("the same guest goes on, from %s to %s", async (from, to) => {
    const common: Omit<StartQemuOptions, "version"> = {
      machine: "pc-i440fx-7.2",
      memoryBytes: MEMORY,
      guestImage: buildBootSector(WORKLOAD),
      args: ["-device", "VGA", "-device", "e1000"],
      workDir: workDir.path,
    };
    const stream = workDir.file("stream");
    const source = await startQemu({ ...common, version: from });
    await source.waitForPass(4);
    await source.qmp("migrate", { uri: `exec:cat > '${stream}'` });
    expect(await migrationEnd(source)).toBe("completed");
    const last = source.passes().at(-1)!;
    const before = source.serial.text;
    await source.kill();
    expect(statSync(stream).size).toBeGreaterThan(4 * MIB);

    const destination = await startQemu({ ...common, version: to, incoming: "defer" });
    await destination.qmp("migrate-incoming", { uri: `exec:cat '${stream}'` });
    const report = await destination.waitForPass(last.pass + 5);
    expect(report.id).toBe(last.id);
    expect(destination.serial.startId).toBeUndefined();
    // It lost no pass and repeats none: what both said is one report without a gap.
    expect(parseSerialReport(before + destination.serial.text).at(-1)?.id).toBe(last.id);
  });
});
