/**
 * A guest as a Multiboot (version 1) image: for `qemu -kernel` and for emulators that start such an image without any
 * firmware.
 *
 * @module
 */

import { Assembler, Label } from "./assembler.js";
import { emitWakingVector } from "./waking-vector.js";
import { assembleWorkload } from "./workload.js";
import type { WorkloadOptions } from "./workload.js";

/** In low memory like the boot sector, so that all memory from 1 MiB on is free for the ranges. */
export const LOAD_ADDRESS = 0x1_0000;
const HEADER_MAGIC = 0x1bad_b002;
/** The header has the addresses: the image is no ELF file. */
const HAS_ADDRESSES = 1 << 16;

/** Where an image lies whose guest sleeps: what wakes it is 16-bit code, for the first 64 KiB. */
const SLEEPERS_ADDRESS = 0x8000;
/** PM1a_CNT of v86. */
const SLEEP_PORT = 0xb004;

/**
 * Builds the image. A guest that sleeps does so in a machine without firmware, as v86 is one then: it makes ACPI's tables
 * itself, and is woken at the waking vector that is in them.
 *
 * @throws UsageError when the options are impossible.
 */
export function buildMultibootImage(options: WorkloadOptions): Uint8Array {
  if (options.sleepAfterPass !== undefined) {
    const asm = new Assembler(SLEEPERS_ADDRESS);
    const sleeper = { sleepPort: SLEEP_PORT, ...options };
    return buildMultibootProgram(asm, () => {
      emitWakingVector(asm, () => assembleWorkload(asm, sleeper));
    });
  }
  const asm = new Assembler(LOAD_ADDRESS);
  return buildMultibootProgram(asm, () => assembleWorkload(asm, options));
}

/**
 * Builds an image of any program: execution enters at its first byte, in flat 32-bit protected mode.
 *
 * @param asm Empty, made for {@link LOAD_ADDRESS} or another place in low memory.
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
