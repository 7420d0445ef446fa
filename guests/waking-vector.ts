/**
 * A guest that can be woken from ACPI's sleep state S3, in a machine without firmware: it has the tables itself in which a
 * guest says where it goes on (RSDP, RSDT, FADT, FACS).
 *
 * @module
 */

import { type Assembler, Label } from "./assembler.js";
import { emitProtectedMode } from "./protected-mode.js";

/** In the memory that is the BIOS's elsewhere, where the first table is looked for. */
const TABLES = 0xe_0000;
const Offset = { rsdt: 0x20, fadt: 0x60, facs: 0x100, wakingVector: 0x10c, end: 0x140 } as const;
const RSDT_BYTES = 40;
/** Of ACPI 1.0. */
const FADT_BYTES = 116;

/**
 * Emits what makes the tables when the guest starts, and the program: it is entered at its first instruction, and there
 * again when the guest is woken. In the first 64 KiB of memory.
 */
export function emitWakingVector(asm: Assembler, emitProgram: () => void): void {
  const woken = new Label("woken");
  const program = new Label("program");
  asm.bits = 32;
  asm.cld();
  asm.mov("edi", TABLES);
  const tables = acpiTables();
  for (let at = 0; at < Offset.end; at += 4) {
    if (at === Offset.wakingVector) asm.mov("eax", woken);
    else asm.mov("eax", tables.getUint32(at, true));
    asm.stosd();
  }
  asm.jmp(program);

  asm.place(woken);
  asm.bits = 16;
  asm.cli();
  asm.op("xor", "eax", "eax");
  asm.movSegment("ds", "eax");
  const placeDescriptors = emitProtectedMode(asm);
  asm.jmp(program);
  placeDescriptors();

  asm.place(program);
  emitProgram();
}

/** The tables but for the waking vector, which no checksum covers. */
function acpiTables(): DataView {
  const bytes = new Uint8Array(Offset.end);
  const view = new DataView(bytes.buffer);
  const text = (at: number, value: string): void => bytes.set(new TextEncoder().encode(value), at);
  const word = (at: number, value: number): void => view.setUint32(at, value, true);
  const check = (start: number, length: number, at: number): void => {
    const sum = bytes.subarray(start, start + length).reduce((total, byte) => total + byte, 0);
    bytes[at] = -sum;
  };
  text(0, "RSD PTR ");
  text(9, "RAMPRT");
  word(16, TABLES + Offset.rsdt);
  check(0, 20, 8);
  text(Offset.rsdt, "RSDT");
  word(Offset.rsdt + 4, RSDT_BYTES);
  bytes[Offset.rsdt + 8] = 1;
  word(Offset.rsdt + 36, TABLES + Offset.fadt);
  check(Offset.rsdt, RSDT_BYTES, Offset.rsdt + 9);
  text(Offset.fadt, "FACP");
  word(Offset.fadt + 4, FADT_BYTES);
  bytes[Offset.fadt + 8] = 1;
  word(Offset.fadt + 36, TABLES + Offset.facs);
  check(Offset.fadt, FADT_BYTES, Offset.fadt + 9);
  text(Offset.facs, "FACS");
  word(Offset.facs + 4, 64);
  return view;
}
