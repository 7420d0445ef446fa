/**
 * A guest as a boot disk of a few sectors: any PC firmware starts it. The firmware loads the first one, which
 * loads the others.
 *
 * @module
 */

import { Assembler, Label } from "./assembler.js";
import { emitProtectedMode } from "./protected-mode.js";
import { assembleWorkload } from "./workload.js";
import type { WorkloadOptions } from "./workload.js";

/** Where the firmware loads a boot sector. */
const LOAD_ADDRESS = 0x7c00;
const SECTOR = 512;
const SECTORS = 3;
/** Firmware call to read sectors by cylinder, head and sector. */
const DISK_SERVICE = 0x13;
const READ = 2;

/**
 * Builds the image of a boot disk, good for a floppy drive and for a hard disk.
 *
 * @throws UsageError when the options are impossible.
 */
export function buildBootSector(options: WorkloadOptions): Uint8Array {
  const asm = new Assembler(LOAD_ADDRESS);
  asm.bits = 16;
  asm.cli();
  asm.op("xor", "eax", "eax");
  asm.movSegment("ds", "eax");
  asm.movSegment("es", "eax");
  emitLoad(asm);
  const placeTable = emitProtectedMode(asm);
  const workload = new Label("workload");
  asm.jmp(workload);

  placeTable();
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
