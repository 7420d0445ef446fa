import fs from "node:fs";

import { afterEach, describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../../guests/multiboot.js";
import { SerialReport } from "../../../guests/serial-report.js";
import { MachineError, UsageError } from "../../../src/errors/index.js";
import { V86Host, type V86HostOptions } from "../../../src/hosts/v86/index.js";
import { internalsOf } from "../../../src/hosts/v86/internals.js";
import { useWorkDir } from "../../support/work-dir.js";

const MIB = 1 << 20;
const MEMORY_BYTES = 16 * MIB;
const multiboot = buildMultibootImage({
  staticRange: { start: MIB, end: 3 * MIB },
  dirtyRange: { start: 4 * MIB, end: 6 * MIB },
});

const workDir = useWorkDir();
const hosts: V86Host[] = [];

afterEach(async () => {
  for (const host of hosts.splice(0)) await host.destroy();
});

interface Machine {
  readonly host: V86Host;
  /** Waits for so many more passes, all of which the guest finds in order. */
  readonly passes: (count: number) => Promise<void>;
}

async function machine(options: Partial<V86HostOptions>, report = new SerialReport()): Promise<Machine> {
  const host = await V86Host.create({ memoryBytes: MEMORY_BYTES, ...options });
  hosts.push(host);
  let failure: unknown;
  host.onSerial((text) => {
    try {
      report.push(text);
    } catch (error) {
      failure = error;
    }
  });
  const passes = async (count: number): Promise<void> => {
    const wanted = report.passes.length + count;
    while (report.passes.length < wanted && failure === undefined)
      await new Promise((resolve) => setTimeout(resolve, 5));
    expect(failure).toBeUndefined();
  };
  return { host, passes };
}

function ram(host: V86Host): Uint8Array {
  return host.ramBlocks()[0]!.segments[0]!;
}

function expectSame(host: V86Host, file: string): void {
  const content = fs.readFileSync(file);
  expect(content.length).toBe(MEMORY_BYTES);
  expect(content.equals(ram(host))).toBe(true);
  expect(content.some((byte) => byte !== 0)).toBe(true);
}

describe("a guest whose RAM is a file", () => {
  test("has its memory there while it runs, and when the emulator's memory has grown", async () => {
    const file = workDir.file("ram");
    const { host, passes } = await machine({ multiboot, sharedMemory: { path: file, use: "fill" } });
    expect(host.ramBlocks().map(({ name, shared }) => [name, shared])).toEqual([
      ["pc.ram", true],
      ["vga.vram", undefined],
    ]);
    expectSame(host, file);
    await host.run();
    await passes(3);
    await host.stop();
    expectSame(host, file);
    const { wasm_memory: memory } = internalsOf(host.emulator).cpu as unknown as {
      wasm_memory: { grow(pages: number): number; readonly buffer: ArrayBuffer };
    };
    const before = memory.buffer;
    // Far, and in small steps, as the emulator does when it translates more code.
    for (const pages of [1, 16, 4096, 8192]) {
      memory.grow(pages);
      expect(memory.buffer).not.toBe(before);
      await host.run();
      await passes(2);
      await host.stop();
      expectSame(host, file);
    }
    // The other way round: what is written to the file is there for the guest.
    const fd = fs.openSync(file, "r+");
    fs.writeSync(fd, "written to the file", 10 * MIB);
    fs.closeSync(fd);
    expect(Buffer.from(ram(host).subarray(10 * MIB, 10 * MIB + 19)).toString()).toBe("written to the file");
  });

  test("goes on in another emulator that maps the same file and gets only the devices", async () => {
    const file = workDir.file("ram");
    const report = new SerialReport();
    const first = await machine({ multiboot, sharedMemory: { path: file, use: "fill" } }, report);
    await first.host.run();
    await first.passes(3);
    await first.host.stop();
    const devices = first.host.saveDevices();
    const second = await machine({ sharedMemory: { path: file, use: "take" } }, report);
    second.host.checkDevices(devices);
    second.host.loadDevices(devices);
    await second.host.run();
    await second.passes(5);
    expect(new Set(report.passes.map(({ id }) => id)).size).toBe(1);
  });

  test("is of the size of its file", async () => {
    const file = workDir.file("ram");
    fs.writeFileSync(file, "short");
    for (const use of ["fill", "take"] as const) {
      await expect(machine({ sharedMemory: { path: file, use } })).rejects.toThrow(UsageError);
    }
    expect(fs.readFileSync(file, "utf8")).toBe("short");
    const missing = { path: workDir.file("missing"), use: "take" } as const;
    await expect(machine({ sharedMemory: missing })).rejects.toThrow(MachineError);
    expect(fs.existsSync(missing.path)).toBe(false);
  });
});

test("memory that would be of another size than asked for is refused", async () => {
  for (const memoryBytes of [0, MIB - 1, MIB + 4096, 2 ** 31, Number.NaN]) {
    await expect(machine({ memoryBytes })).rejects.toThrow(UsageError);
  }
  const initrd = { buffer: new ArrayBuffer(16) };
  for (const memoryBytes of [32 * MIB, 64 * MIB]) {
    await expect(machine({ memoryBytes, v86: { initrd } })).rejects.toThrow(/behind the first 64 MiB/);
  }
});
