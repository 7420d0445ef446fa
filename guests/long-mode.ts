/**
 * What 64-bit code needs beside {@link Assembler}: the way into long mode, and the few instructions that differ there.
 *
 * Most 32-bit instructions have the same bytes in 64-bit code, where they address memory by the whole of a register and clear
 * the upper half of what they write; {@link LongModeAssembler.wide} in front makes one work on the whole register.
 *
 * @module
 */

import { Assembler, Label, type Reg32 } from "./assembler.js";

const REG32 = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];

/** Selectors of the table that {@link emitLongMode} loads. */
const CODE_SELECTOR = 0x08;
const DATA_SELECTOR = 0x10;

const EFER = 0xc000_0080;
const LONG_MODE_ENABLE = 0x100;
const PHYSICAL_ADDRESS_EXTENSION = 0x20;
const PAGING = 0x8000_0000;

const PRESENT_AND_WRITABLE = 0x03;
const LARGE_PAGE = 0x80;
const TABLE_BYTES = 4096;
const ENTRIES = 512;
const LARGE_PAGE_BYTES = 2 << 20;

/** An assembler that can also write 64-bit code. */
export class LongModeAssembler extends Assembler {
  /** In front of an instruction: it works on 64-bit registers. Numbers are still 32 bits, with their sign. */
  wide(): void {
    this.bytes(0x48);
  }

  shl(reg: Reg32, count: number): void {
    this.bytes(0xc1, 0xe0 | REG32.indexOf(reg), count);
  }

  shr(reg: Reg32, count: number): void {
    this.bytes(0xc1, 0xe8 | REG32.indexOf(reg), count);
  }

  /** `shr reg, cl` */
  shrCl(reg: Reg32): void {
    this.bytes(0xd3, 0xe8 | REG32.indexOf(reg));
  }

  /** `bsr to, from`: the number of the highest bit that is set. */
  bsr(to: Reg32, from: Reg32): void {
    this.bytes(0x0f, 0xbd, 0xc0 | (REG32.indexOf(to) << 3) | REG32.indexOf(from));
  }
}

/**
 * Appends the way from flat 32-bit protected mode, which execution must enter in, to 64-bit code right behind it: addresses are
 * physical ones.
 *
 * @param tables Guest address of free low memory for the page tables: 8 KiB and 4 KiB for each GiB.
 * @param gibibytes How much can be addressed.
 */
export function emitLongMode(asm: LongModeAssembler, tables: number, gibibytes: number): void {
  const descriptors = new Label("long mode's descriptors");
  const pointer = new Label("long mode's descriptors' pointer");
  const begin = new Label("long mode's begin");
  const longMode = new Label("long mode");
  asm.jmp(begin);
  asm.place(descriptors);
  asm.bytes(0, 0, 0, 0, 0, 0, 0, 0);
  // 64-bit code, and data, ring 0.
  asm.bytes(0xff, 0xff, 0, 0, 0, 0x9a, 0xaf, 0);
  asm.bytes(0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0);
  asm.place(pointer);
  asm.u16(3 * 8 - 1);
  asm.pointer(descriptors);
  asm.place(begin);
  emitPageTables(asm, tables, gibibytes);
  asm.bytes(0x0f, 0x20, 0xe0); // mov eax, cr4
  asm.op("or", "eax", PHYSICAL_ADDRESS_EXTENSION);
  asm.bytes(0x0f, 0x22, 0xe0); // mov cr4, eax
  asm.mov("eax", tables);
  asm.bytes(0x0f, 0x22, 0xd8); // mov cr3, eax
  asm.mov("ecx", EFER);
  asm.bytes(0x0f, 0x32); // rdmsr
  asm.op("or", "eax", LONG_MODE_ENABLE);
  asm.bytes(0x0f, 0x30); // wrmsr
  asm.readCr0();
  asm.op("or", "eax", PAGING);
  asm.writeCr0();
  asm.bytes(0x0f, 0x01, 0x15); // lgdt [pointer]
  asm.pointer(pointer);
  asm.bytes(0xea); // jmp CODE_SELECTOR:longMode
  asm.pointer(longMode);
  asm.u16(CODE_SELECTOR);
  asm.place(longMode);
  asm.mov("eax", DATA_SELECTOR);
  asm.movSegment("ds", "eax");
  asm.movSegment("es", "eax");
  asm.movSegment("ss", "eax");
}

/** One table of the highest level, one of GiBs, and one of 2 MiB pages for each GiB: every address leads to itself. */
function emitPageTables(asm: LongModeAssembler, tables: number, gibibytes: number): void {
  const directories = tables + 2 * TABLE_BYTES;
  asm.op("xor", "eax", "eax");
  asm.mov("edi", tables);
  asm.mov("ecx", ((2 + gibibytes) * TABLE_BYTES) / 4);
  asm.bytes(0xf3); // rep
  asm.stosd();
  asm.mov("edi", tables);
  asm.mov("eax", (tables + TABLE_BYTES) | PRESENT_AND_WRITABLE);
  asm.stosd();
  asm.mov("edi", tables + TABLE_BYTES);
  asm.mov("eax", directories | PRESENT_AND_WRITABLE);
  asm.mov("ecx", gibibytes);
  const nextDirectory = asm.here("nextDirectory");
  asm.stosd();
  asm.op("add", "edi", 4);
  asm.op("add", "eax", TABLE_BYTES);
  asm.loop(nextDirectory);
  asm.mov("edi", directories);
  asm.mov("eax", PRESENT_AND_WRITABLE | LARGE_PAGE);
  // The upper half of an address: it grows by one when the lower half has gone round.
  asm.op("xor", "edx", "edx");
  asm.mov("ecx", gibibytes * ENTRIES);
  const below = new Label("below 4 GiB");
  const nextPage = asm.here("nextPage");
  asm.stosd();
  asm.mov("ebx", "eax");
  asm.mov("eax", "edx");
  asm.stosd();
  asm.mov("eax", "ebx");
  asm.op("add", "eax", LARGE_PAGE_BYTES);
  asm.op("cmp", "eax", LARGE_PAGE_BYTES);
  asm.jump("notBelow", below);
  asm.inc("edx");
  asm.place(below);
  asm.loop(nextPage);
}
