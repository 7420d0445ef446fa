import fs from "node:fs";
import os from "node:os";
import path from "node:path";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../../guests/multiboot.js";
import { SerialReport } from "../../../guests/serial-report.js";
import { OutputFile } from "../../../src/channels/output-file.js";
import { ReadableFile } from "../../../src/channels/file.js";
import { loadHost } from "../../../src/engine/incoming/load-host.js";
import { readPageBitmap } from "../../../src/engine/mapped-ram/bitmaps.js";
import { openMappedRam } from "../../../src/engine/mapped-ram/open.js";
import { readMappedRamTail } from "../../../src/engine/mapped-ram/tail.js";
import {
  saveHost,
  type SaveHostOptions,
  type SaveHostResult,
} from "../../../src/engine/outgoing/save-host.js";
import { CancelledError, UsageError } from "../../../src/errors/index.js";
import { V86Host, type V86HostOptions } from "../../../src/hosts/v86/index.js";
import { internalsOf } from "../../../src/hosts/v86/internals.js";
import type { StreamTail } from "../../../src/wire/index.js";

const MIB = 1 << 20;
const multiboot = buildMultibootImage({
  staticRange: { start: MIB, end: 3 * MIB },
  dirtyRange: { start: 4 * MIB, end: 8 * MIB },
  togglingRange: { start: 8 * MIB, end: 9 * MIB },
});

let folder: string;
let hosts: V86Host[] = [];

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "ramport-v86-"));
});

afterEach(async () => {
  for (const host of hosts) await host.destroy();
  hosts = [];
  fs.rmSync(folder, { recursive: true });
});

interface Machine {
  readonly host: V86Host;
  readonly report: SerialReport;
  /** Waits for so many more passes, all of which the guest finds in order. */
  readonly passes: (count: number) => Promise<void>;
}

async function machine(
  options: Partial<V86HostOptions> = {},
  report: SerialReport = new SerialReport(),
): Promise<Machine> {
  const host = await V86Host.create({ memoryBytes: 16 * MIB, multiboot, ...options });
  hosts.push(host);
  const failures: Error[] = [];
  host.onSerial((text) => {
    try {
      report.push(text);
    } catch (error) {
      failures.push(error as Error);
    }
  });
  const passes = async (count: number): Promise<void> => {
    const wanted = report.passes.length + count;
    for (const end = Date.now() + 20_000; report.passes.length < wanted;) {
      if (failures[0] !== undefined) throw failures[0];
      if (Date.now() > end) throw new Error(`the guest came to ${JSON.stringify(report.passes.at(-1))} only`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    if (failures[0] !== undefined) throw failures[0];
  };
  return { host, report, passes };
}

async function running(options: Partial<V86HostOptions> = {}): Promise<Machine> {
  const result = await machine(options);
  await result.host.run();
  await result.passes(2);
  return result;
}

async function save(host: V86Host, options: SaveHostOptions = {}): Promise<SaveHostResult> {
  const out = OutputFile.create(path.join(folder, "guest.ram"));
  try {
    return await saveHost(host, out, { ...options, commit: () => out.commit() });
  } finally {
    out.discard();
  }
}

function open(): ReadableFile {
  return ReadableFile.open(path.join(folder, "guest.ram"));
}

/** All blocks, copied, because the views move. */
function memory(host: V86Host): Buffer {
  return Buffer.concat(host.ramBlocks().flatMap(({ segments }) => segments));
}

describe("a v86 guest that never rests", () => {
  test("goes on in a fresh emulator from where it was", async () => {
    const first = await running();
    const result = await save(first.host, { maxRounds: 6, downtimeLimitMs: 0 });
    expect(result.info.ram?.["dirty-sync-count"]).toBe(7);
    expect(first.host.running).toBe(false);
    const { length: before } = first.report.passes;

    // The second machine's output continues the first one's, in the middle of a line if need be.
    const second = await machine({}, first.report);
    await loadHost(second.host, open());
    expect(second.host.running).toBe(false);
    expect(memory(second.host).equals(memory(first.host))).toBe(true);
    await second.host.run();
    await second.passes(5);
    const numbers = first.report.passes.map(({ pass }) => pass);
    expect(numbers).toEqual(numbers.map((_, index) => index + 1));
    expect(numbers.length).toBeGreaterThanOrEqual(before + 5);
    expect(new Set(first.report.passes.map(({ id }) => id)).size).toBe(1);
  });

  test("can be saved again after it was restored, and restored over another guest", async () => {
    const first = await running();
    await save(first.host);
    const other = await running();
    await other.host.stop();
    await loadHost(other.host, open());
    await other.host.run();
    await new Promise((resolve) => setTimeout(resolve, 200));
    fs.rmSync(path.join(folder, "guest.ram"));
    await save(other.host);
    const third = await machine();
    await loadHost(third.host, open());
    await third.host.run();
    await third.passes(3);
    expect(third.report.passes[0]?.id).toBe(first.report.passes[0]?.id);
  });

  test("the file holds the stopped guest's memory, and every section is delimited", async () => {
    const { host } = await running();
    const { fileBytes } = await save(host, { maxRounds: 4, downtimeLimitMs: 0 });
    const file = open();
    expect(file.sizeBytes).toBe(fileBytes);
    const skeleton = openMappedRam(file);
    const blocks = skeleton.blocks.map((block) => {
      const bytes = Buffer.alloc(block.usedLength);
      for (const { start, end } of readPageBitmap(file, block).runs()) {
        file.readAt(bytes.subarray(start * 4096, end * 4096), block.mapped!.pagesOffset + start * 4096);
      }
      return bytes;
    });
    expect(Buffer.concat(blocks).equals(memory(host))).toBe(true);
    const { tail } = readMappedRamTail(file, skeleton);
    expect(tail.description?.content.devices).toEqual(
      tail.sections.map(({ name, instance, version, payloadLength }) => ({
        name,
        instance,
        version,
        payloadBytes: payloadLength,
      })),
    );
    expect(tail.trailingBytes).toBe(0);
    // 5 MiB of dense memory are in the pages; none of it is in the device state.
    expect(tail.sections.reduce((sum, { payloadLength }) => sum + payloadLength, 0)).toBeLessThan(1.5 * MIB);
  });

  test("runs on when its save is cancelled, and leaves no file", async () => {
    const { host, passes } = await running();
    const controller = new AbortController();
    const saving = save(host, {
      maxRounds: 10_000,
      downtimeLimitMs: 0,
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    await expect(saving).rejects.toThrow(CancelledError);
    expect(fs.readdirSync(folder)).toEqual([]);
    await passes(3);
  });
});

test("registers that v86 itself loses come back", async () => {
  const { host } = await running();
  await host.stop();
  const { cpu } = internalsOf(host.emulator);
  cpu.last_result[0] = 0x1234567;
  cpu.fpu_status_word[0] = 0x4100;
  cpu.mxcsr[0] = 0x9fc0;
  await save(host);
  const second = await machine();
  const views = internalsOf(second.host.emulator).cpu;
  const { last_result, fpu_status_word, mxcsr } = views;
  await loadHost(second.host, open());
  expect([last_result[0], fpu_status_word[0], mxcsr[0]]).toEqual([0x1234567, 0x4100, 0x9fc0]);
  expect(views.mxcsr).toBe(mxcsr);
});

describe("what does not fit is refused, and the guest there goes on untouched", () => {
  /** The file's tail, and the file open for damage. */
  function reopen(): { readonly tail: StreamTail; readonly fd: number } {
    const file = open();
    const { tail } = readMappedRamTail(file, openMappedRam(file));
    file.close();
    return { tail, fd: fs.openSync(file.path, "r+") };
  }

  const sectionOf = (tail: StreamTail, name: string): StreamTail["sections"][number] =>
    tail.sections.find((section) => section.name === name)!;

  async function refused(host: V86Host, message: RegExp): Promise<void> {
    const before = memory(host);
    await expect(loadHost(host, open())).rejects.toThrow(message);
    expect(memory(host).equals(before)).toBe(true);
  }

  test("another version of v86's state", async () => {
    const { host } = await running();
    await save(host);
    const { tail, fd } = reopen();
    fs.writeSync(fd, new Uint8Array([0, 0, 0, 7]), 0, 4, sectionOf(tail, "v86/pit").payloadOffset - 4);
    const { offset, text } = tail.description!;
    const damaged = text.replace(/("name": "v86\/pit",(?:(?!"version").)*"version": )6/s, "$17");
    expect(damaged).not.toBe(text);
    fs.writeSync(fd, damaged, offset);
    fs.closeSync(fd);
    const other = await running();
    await other.host.stop();
    await refused(other.host, /another state format.*expected version 6, found version 7/);
    await other.host.run();
    await other.passes(2);
  });

  test("damaged bytes in the state, and a file that was cut", async () => {
    await save((await running()).host);
    const { tail, fd } = reopen();
    fs.writeSync(fd, "}{", sectionOf(tail, "v86/vga").payloadOffset + 20);
    const { host } = await machine();
    await refused(host, /state of v86 is damaged/);
    fs.ftruncateSync(fd, tail.eofOffset);
    fs.closeSync(fd);
    await refused(host, /not found|cut off|truncated|ends/);
  });

  test("other memory, other devices", async () => {
    await save((await running()).host);
    await refused((await machine({ memoryBytes: 32 * MIB })).host, /another length/);
    await refused((await machine({ v86: { uart1: true } })).host, /other devices.*v86\/uart 1/);
  });
});

test("an emulator that is not loaded yet cannot be taken", async () => {
  const { host } = await machine();
  expect(() => V86Host.attach({} as never)).toThrow(UsageError);
  expect(
    V86Host.attach(host.emulator)
      .ramBlocks()
      .map(({ name, usedLength }) => [name, usedLength]),
  ).toEqual([
    ["pc.ram", 16 * MIB],
    ["vga.vram", MIB],
  ]);
});
