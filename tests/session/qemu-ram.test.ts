import { expect, test } from "vitest";

import { checkRamBlocks, parseRamBlocks } from "../../src/session/qemu-ram.js";

/** As QEMU 11.1 prints it; 7.2 leaves the last two columns out. */
const ANSWER = [
  "              Block Name    PSize              Offset               Used              Total                HVA  RO",
  "                  pc.ram    2 MiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007ff451c00000  rw",
  "   0000:00:02.0/vga.vram    4 KiB  0x00000000022c0000 0x0000000001000000 0x0000000001000000 0x00007ff498200000  rw",
  "    /rom@etc/acpi/tables    4 KiB  0x0000000003340000 0x0000000000020000 0x0000000000200000",
  "",
].join("\r\n");

test("the answer to info ramblock is read", () => {
  expect([...parseRamBlocks(ANSWER)]).toEqual([
    ["pc.ram", { hostPageSize: 2 << 20, usedLength: 0x800_0000, maximumLength: 0x800_0000 }],
    ["0000:00:02.0/vga.vram", { hostPageSize: 4096, usedLength: 0x100_0000, maximumLength: 0x100_0000 }],
    ["/rom@etc/acpi/tables", { hostPageSize: 4096, usedLength: 0x2_0000, maximumLength: 0x20_0000 }],
  ]);
  expect(parseRamBlocks("something else").size).toBe(0);
});

test("a snapshot fits where each block has room; nothing is said where the QEMU does not tell", () => {
  const blocks = parseRamBlocks(ANSWER);
  const of = (name: string, usedLength: number) => ({ blocks: [{ name, usedLength }] });
  checkRamBlocks(of("/rom@etc/acpi/tables", 0x4_0000), blocks);
  checkRamBlocks(of("other", 1), new Map());
  expect(() => checkRamBlocks(of("other", 1), blocks)).toThrow(/no RAM block of that name \(block other\)/);
  expect(() => checkRamBlocks(of("pc.ram", 0x1000_0000), blocks)).toThrow(/less memory than the snapshot/);
});
