import { describe, expect, test } from "vitest";

import { loadHost } from "../../../src/engine/incoming/load-host.js";
import { openMappedRam } from "../../../src/engine/mapped-ram/open.js";
import { saveHost } from "../../../src/engine/outgoing/save-host.js";
import { CancelledError, UsageError } from "../../../src/errors/index.js";
import { FakeHost, MemoryFile } from "../fake-host.js";

const PAGE = 4096;

async function saved(): Promise<MemoryFile> {
  const host = new FakeHost();
  host.ram[0]!.fill(3, 0, 8 * PAGE);
  const file = new MemoryFile();
  await saveHost(host, file);
  return file;
}

describe("loadHost refuses, and changes nothing", () => {
  const cases: readonly (readonly [string, (file: MemoryFile, host: FakeHost) => unknown, RegExp])[] = [
    [
      "another machine",
      (_, host) => Reflect.set(host, "machine", "other"),
      /another machine.*expected other, found fake/,
    ],
    ["another page size", (_, host) => Reflect.set(host, "pageSize", 8192), /another page size/],
    [
      "other lengths",
      (_, host) => Reflect.set(host, "video", new Uint8Array(PAGE)),
      /vga\.vram.*another length|another length.*vga\.vram/,
    ],
    [
      "a block that the file lacks",
      (_, host) => {
        const blocks = host.ramBlocks();
        host.ramBlocks = () => [
          ...blocks,
          { name: "more", usedLength: PAGE, segments: [new Uint8Array(PAGE)] },
        ];
      },
      /lacks a RAM block.*more/,
    ],
    [
      "a block that the machine lacks",
      (_, host) => {
        const blocks = host.ramBlocks();
        host.ramBlocks = () => blocks.slice(0, 1);
      },
      /no such RAM block.*vga\.vram/,
    ],
    [
      "a file that was cut",
      (file) => (file.bytes = file.bytes.subarray(0, file.bytes.length - 10)),
      /cut off/,
    ],
    ["a file without its pages", (file) => (file.bytes = file.bytes.subarray(0, 2 << 20)), /past the end/],
    ["something else", (file) => file.bytes.fill(0x55, 0, 64), /not a QEMU migration stream/],
    [
      "bits past the last page",
      (file) => {
        const offset = openMappedRam(file).blocks[1]!.mapped!.bitmapOffset;
        file.bytes[offset + 7] = 0x80;
      },
      /past the last page/,
    ],
    ["devices of another version", (_, host) => (host.checkDevices = () => refuse("version 4")), /version 4/],
  ];

  test.each(cases)("%s", async (_name, spoil, message) => {
    const file = await saved();
    const host = new FakeHost();
    for (const segment of host.ram) segment.fill(0xab);
    spoil(file, host);
    const before = host.memory();
    await expect(loadHost(host, file)).rejects.toThrow(message);
    expect(host.memory().equals(before)).toBe(true);
    expect(host.loads).toBe(0);
  });

  test("a running host, and a signal that has fired", async () => {
    const file = await saved();
    const host = new FakeHost();
    await expect(loadHost(host, file, { signal: AbortSignal.abort() })).rejects.toThrow(CancelledError);
    await host.run();
    await expect(loadHost(host, file)).rejects.toThrow(UsageError);
    await host.stop();
  });
});

test("says what it loaded", async () => {
  const host = new FakeHost();
  for (const segment of host.ram) segment.fill(0xab);
  const result = await loadHost(host, await saved());
  expect(result).toMatchObject({ pages: { normal: 8, zero: 512 + 16 - 8 }, readBytes: 8 * PAGE });
  expect(
    host
      .memory()
      .subarray(8 * PAGE)
      .every((byte) => byte === 0),
  ).toBe(true);
});

function refuse(message: string): never {
  throw new Error(message);
}
