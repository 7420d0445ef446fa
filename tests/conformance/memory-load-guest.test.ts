/**
 * The guest of the instant-restore tests: it sees a page that is damaged, and one that is put back to an older state, and
 * it waits where it is told to.
 */

import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { expect, test } from "vitest";

import { buildMemoryLoad, type MemoryLoadOptions } from "../../guests/memory-load.js";
import { parseTimings, parseVerifications } from "../../guests/memory-load-report.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import { QEMU_VERSIONS, type QemuMachine, startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const MIB = 1 << 20;
const PAGE = 4096;
const MEMORY = 64 * MIB;
/** All but the first MiB. */
const CHECKED_PAGES = MEMORY / PAGE - 256;

const workDir = useWorkDir();

function start(
  guest: Omit<MemoryLoadOptions, "memoryBytes">,
  version: (typeof QEMU_VERSIONS)[number],
): Promise<QemuMachine> {
  return startQemu({
    version,
    machine: "pc,memory-backend=ram",
    memoryBytes: MEMORY,
    guestImage: buildMemoryLoad({ memoryBytes: MEMORY, ...guest }),
    workDir: workDir.path,
    args: ["-object", `memory-backend-file,id=ram,size=${MEMORY},mem-path=${workDir.file("ram")},share=on`],
  });
}

async function pressKey(machine: QemuMachine): Promise<void> {
  await machine.qmp("send-key", { keys: [{ type: "qcode", data: "v" }], "hold-time": 1 });
}

describeWithQemu(QEMU_VERSIONS, "memory load guest", () => {
  test.each(QEMU_VERSIONS)("QEMU %s: a pass over all pages, and a check of all pages", async (version) => {
    const machine = await start({ passesPerSweep: 16 }, version);
    await machine.waitForPass(40);
    await pressKey(machine);
    await expect.poll(() => parseVerifications(machine.serial.text).length).toBe(1);
    expect(parseVerifications(machine.serial.text)[0]?.pages).toBe(CHECKED_PAGES);
    await machine.waitForMorePasses(20);
  });

  test("a page that is put back to its state of the sweep before", async () => {
    const machine = await start({}, "10.0");
    await machine.waitForPass(2);
    const fd = openSync(workDir.file("ram"), "r+");
    const old = new Uint8Array(PAGE);
    const address = 40 * MIB;
    const seen = expect(machine.waitForMorePasses(1_000_000)).rejects.toThrow(/found wrong memory/);
    // A copy of now is right until the next visit.
    while (!machine.serial.text.includes("BAD")) {
      readSync(fd, old, 0, PAGE, address);
      await machine.waitForMorePasses(2).catch(() => undefined);
      writeSync(fd, old, 0, PAGE, address);
    }
    closeSync(fd);
    await seen;
    expect(machine.serial.text).toContain(`BAD addr=${address.toString(16).toUpperCase().padStart(16, "0")}`);
  });

  test("damage outside of the working set is seen by a check of all pages alone", async () => {
    const machine = await start({ workingSetPages: 256, isTimed: true }, "10.0");
    await machine.waitForPass(2);
    const fd = openSync(workDir.file("ram"), "r+");
    const known = Buffer.alloc(4);
    // None of them is in the working set: the passes go on.
    for (const page of [5000, 5001, 9000, 9001]) {
      readSync(fd, known, 0, 4, page * PAGE);
      known.writeUInt8(known.readUInt8() ^ 1);
      writeSync(fd, known, 0, 4, page * PAGE);
    }
    closeSync(fd);
    await machine.waitForMorePasses(3);
    await pressKey(machine);
    await expect(machine.waitForMorePasses(1_000_000)).rejects.toThrow(/found wrong memory/);
  });

  test("timings of each pass count each page", async () => {
    const machine = await start({ workingSetPages: 256, isTimed: true, stride: 4 }, "10.0");
    await machine.waitForPass(4);
    const [first] = parseTimings(machine.serial.text);
    expect(first?.pass).toBe(1);
    expect(first?.accesses.reduce((sum, { count }) => sum + count, 0)).toBe(256);
    const ticks = first?.accesses.reduce((sum, access) => sum + access.ticks * access.count, 0) ?? NaN;
    expect(ticks).toBeGreaterThan(0);
    expect(ticks).toBeLessThan(first?.ticks ?? NaN);
  });

  test("waits while the debug port answers", async () => {
    const guest = buildMemoryLoad({ memoryBytes: MEMORY });
    const common = {
      version: "10.0",
      memoryBytes: MEMORY,
      guestImage: guest,
      workDir: workDir.path,
    } as const;
    const waiting = await startQemu({
      ...common,
      args: ["-chardev", "null,id=debug", "-device", "isa-debugcon,iobase=0xe9,chardev=debug"],
    });
    await expect.poll(() => waiting.serial.startId).toBeDefined();
    await waiting.qmp("migrate", { uri: `exec:cat > '${workDir.file("stream")}'` });
    await expect.poll(() => waiting.events.some((event) => event.event === "STOP")).toBe(true);
    expect(waiting.serial.text).not.toContain("goes on");
    await expect
      .poll(async () => ((await waiting.qmp("query-migrate")) as { status: string }).status)
      .toBe("completed");
    const restored = await startQemu({ ...common, incoming: `exec:cat '${workDir.file("stream")}'` });
    await restored.waitForPass(3);
    expect(restored.serial.text.split("\n")[0]).toMatch(/ goes on$/);
  });
});
