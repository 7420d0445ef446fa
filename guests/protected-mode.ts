/**
 * The way from 16-bit real mode into flat 32-bit protected mode.
 *
 * @module
 */

import { type Assembler, Label } from "./assembler.js";

const CODE_SELECTOR = 0x08;
const DATA_SELECTOR = 0x10;
/** System control port: bit 1 opens address line 20, bit 0 resets the machine. */
const SYSTEM_CONTROL = 0x92;

/**
 * Emits the switch, in the first 64 KiB of memory, with `ds` 0 and interrupts off. What follows is 32-bit code.
 *
 * @returns Emits the descriptors; to be called where no execution comes by.
 */
export function emitProtectedMode(asm: Assembler): () => void {
  const table = new Label("descriptors");
  const tablePointer = new Label("descriptors' pointer");
  const protectedMode = new Label("protected mode");
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
  return () => {
    // The first descriptor is never used by the processor: the pointer to the table has room in it.
    asm.place(table);
    asm.place(tablePointer);
    asm.u16(3 * 8 - 1);
    asm.pointer(table);
    asm.u16(0);
    // Code and data: from 0 to 4 GiB, ring 0, 32 bits.
    asm.bytes(0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0);
    asm.bytes(0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0);
  };
}
