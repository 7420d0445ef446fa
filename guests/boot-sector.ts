/**
 * A guest as a boot disk of a few sectors: any PC firmware starts it. The firmware loads the first one, which
 * loads the others.
 *
 * @module
 */

import { Assembler, Label } from "./assembler.js";
import { assembleWorkload } from "./workload.js";
import type { WorkloadOptions } from "./workload.js";

/** Where the firmware loads a boot sector. */
const LOAD_ADDRESS = 0x7c00;
const SECTOR = 512;
const SECTORS = 3;
/** Firmware call to read sectors by cylinder, head and sector. */
const DISK_SERVICE = 0x13;
const READ = 2;
const CODE_SELECTOR = 0x08;
const DATA_SELECTOR = 0x10;
/** System control port: bit 1 opens address line 20, bit 0 resets the machine. */
const SYSTEM_CONTROL = 0x92;

/**
 * Builds the image of a boot disk, good for a floppy drive and for a hard disk.
 *
 * @throws UsageError when the options are impossible.
 */
export function buildBootSector(options: WorkloadOptions): Uint8Array {
  const asm = new Assembler(LOAD_ADDRESS);
  const table = new Label("descriptors");
  const tablePointer = new Label("descriptors' pointer");
  const protectedMode = new Label("protected mode");

  asm.bits = 16;
  asm.cli();
  asm.op("xor", "eax", "eax");
  asm.movSegment("ds", "eax");
  asm.movSegment("es", "eax");
  emitLoad(asm);
  asm.inAl(SYSTEM_CONTROL);
  asm.opAl("or", 2);
  asm.opAl("and", 0xfe);
  asm.outAl(SYSTEM_CONTROL);
  asm.lgdt16(tablePointer);
  asm.readCr0();
  asm.opAl("or", 1);
  asm.writeCr0();
  asm.farJump16(CODE_SELECTOR, protectedMode);

  asm.bits = 32;
  asm.place(protectedMode);
  asm.mov("eax", DATA_SELECTOR);
  asm.movSegment("ds", "eax");
  asm.movSegment("es", "eax");
  asm.movSegment("ss", "eax");
  const workload = new Label("workload");
  asm.jmp(workload);

  // The first descriptor is never used by the processor: the pointer to the table has room in it.
  asm.place(table);
  asm.place(tablePointer);
  asm.u16(3 * 8 - 1);
  asm.pointer(table);
  asm.u16(0);
  // Code and data: from 0 to 4 GiB, ring 0, 32 bits.
  asm.bytes(0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0);
  asm.bytes(0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0);

  asm.padTo(SECTOR - 2);
  asm.bytes(0x55, 0xaa);
  asm.place(workload);
  assembleWorkload(asm, options);
  asm.padTo(SECTORS * SECTOR);
  return asm.finish();
}

/** Reads the other sectors behind the first one, from the drive in dl that the firmware booted from. */
function emitLoad(asm: Assembler): void {
  const again = asm.here("again");
  asm.mov("eax", (READ << 8) | (SECTORS - 1));
  asm.mov("ebx", LOAD_ADDRESS + SECTOR);
  // Cylinder 0, sector 2: they count from 1.
  asm.mov("ecx", 2);
  asm.mov8("dh", 0);
  asm.int(DISK_SERVICE);
  // The carry flag says that it failed; a floppy drive may need time.
  asm.jump("below", again);
  asm.cli();
}
