/**
 * A guest as a Multiboot (version 1) image: for `qemu -kernel` and for emulators that start such an image without any
 * firmware.
 *
 * @module
 */

import { Assembler, Label } from "./assembler.js";
import { assembleWorkload } from "./workload.js";
import type { WorkloadOptions } from "./workload.js";

/** In low memory like the boot sector, so that all memory from 1 MiB on is free for the ranges. */
export const LOAD_ADDRESS = 0x1_0000;
const HEADER_MAGIC = 0x1bad_b002;
/** The header has the addresses: the image is no ELF file. */
const HAS_ADDRESSES = 1 << 16;

/**
 * Builds the image.
 *
 * @throws UsageError when the options are impossible.
 */
export function buildMultibootImage(options: WorkloadOptions): Uint8Array {
  const asm = new Assembler(LOAD_ADDRESS);
  return buildMultibootProgram(asm, () => assembleWorkload(asm, options));
}

/**
 * Builds an image of any program: execution enters at its first byte, in flat 32-bit protected mode.
 *
 * @param asm Empty, made for {@link LOAD_ADDRESS}.
 */
export function buildMultibootProgram(asm: Assembler, emitProgram: () => void): Uint8Array {
  const header = asm.here("header");
  const entry = new Label("entry");
  const end = new Label("end");
  asm.u32(HEADER_MAGIC);
  asm.u32(HAS_ADDRESSES);
  asm.u32(-(HEADER_MAGIC + HAS_ADDRESSES));
  asm.pointer(header);
  // From where the image is loaded, up to where, and up to where memory is cleared after it.
  asm.pointer(header);
  asm.pointer(end);
  asm.pointer(end);
  asm.pointer(entry);
  asm.place(entry);
  emitProgram();
  while (asm.size % 4 !== 0) asm.bytes(0);
  asm.place(end);
  return asm.finish();
}
