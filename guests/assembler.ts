/**
 * A small x86 assembler: exactly the instructions that the guests need, in 16- and 32-bit code, with labels.
 *
 * Every method appends one instruction and returns nothing; {@link Assembler.finish} resolves the labels. Numbers are
 * written as they stand in a manual: `asm.mov("eax", 5)` is `mov eax, 5`.
 *
 * @module
 */

import { UsageError } from "../src/errors/index.js";

const REG32 = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"] as const;
const REG8 = ["al", "cl", "dl", "bl", "ah", "ch", "dh", "bh"] as const;

/** A 32-bit register. */
export type Reg32 = (typeof REG32)[number];

/** An 8-bit register. */
export type Reg8 = (typeof REG8)[number];

/** A segment register that can be loaded. */
export type SegmentReg = "es" | "ss" | "ds";

/** Memory at a register, with a displacement of one byte. `esp` cannot be a base here. */
export interface Mem {
  readonly base: Exclude<Reg32, "esp">;
  readonly offset: number;
}

/** What a jump or a pointer leads to. */
export class Label {
  /** Offset in the code, once placed. */
  offset: number | undefined;
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/** Conditions of {@link Assembler.jump}: the code of `jcc`. */
const CONDITIONS = { below: 0x2, notBelow: 0x3, zero: 0x4, notZero: 0x5, belowOrEqual: 0x6 } as const;

/** Name of a condition. */
export type Condition = keyof typeof CONDITIONS;

/** Arithmetic of two operands: the number in opcodes and in /r of the immediate forms. */
const ARITHMETIC = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const;

/** Name of an arithmetic instruction. */
export type Arithmetic = keyof typeof ARITHMETIC;

interface Fixup {
  readonly at: number;
  readonly label: Label;
  readonly kind: "rel8" | "rel32" | "abs16" | "abs32";
  /** Added to an absolute address. */
  readonly addend: number;
}

/** Memory at `[base + offset]`. */
export function mem(base: Mem["base"], offset = 0): Mem {
  return { base, offset };
}

/** Appends instructions to a growing image that is loaded at a known address. */
export class Assembler {
  /** Size of code: set it to 16 before and 32 after the switch to protected mode. */
  bits: 16 | 32 = 32;
  readonly #origin: number;
  readonly #bytes: number[] = [];
  readonly #fixups: Fixup[] = [];

  constructor(origin: number) {
    this.#origin = origin;
  }

  /** Bytes so far. */
  get size(): number {
    return this.#bytes.length;
  }

  /** Raw bytes. */
  bytes(...values: number[]): void {
    for (const value of values) this.#bytes.push(value & 0xff);
  }

  /** A little-endian 16-bit number. */
  u16(value: number): void {
    this.bytes(value, value >>> 8);
  }

  /** A little-endian 32-bit number. */
  u32(value: number): void {
    this.bytes(value, value >>> 8, value >>> 16, value >>> 24);
  }

  /** The 32-bit address of a label (plus something), as data. */
  pointer(label: Label, addend = 0): void {
    this.#refer(label, "abs32", addend);
  }

  /** ASCII text with a zero byte at its end. */
  text(value: string): void {
    this.bytes(...Buffer.from(value, "latin1"), 0);
  }

  /** Zero bytes up to an offset in the image. */
  padTo(size: number): void {
    if (this.size > size)
      throw new UsageError("The guest does not fit", { expected: size, actual: this.size });
    while (this.size < size) this.bytes(0);
  }

  /** Puts a label here. */
  place(label: Label): void {
    if (label.offset !== undefined) throw new UsageError(`Label ${label.name} is placed twice`);
    label.offset = this.size;
  }

  /** A new label that stands here. */
  here(name: string): Label {
    const label = new Label(name);
    this.place(label);
    return label;
  }

  cli(): void {
    this.bytes(0xfa);
  }

  cld(): void {
    this.bytes(0xfc);
  }

  lodsb(): void {
    this.bytes(0xac);
  }

  stosd(): void {
    this.#prefix32();
    this.bytes(0xab);
  }

  /** `int number` */
  int(number: number): void {
    this.bytes(0xcd, number);
  }

  ret(): void {
    this.bytes(0xc3);
  }

  rdtsc(): void {
    this.bytes(0x0f, 0x31);
  }

  pusha(): void {
    this.#prefix32();
    this.bytes(0x60);
  }

  popa(): void {
    this.#prefix32();
    this.bytes(0x61);
  }

  push(reg: Reg32): void {
    this.#prefix32();
    this.bytes(0x50 + REG32.indexOf(reg));
  }

  pop(reg: Reg32): void {
    this.#prefix32();
    this.bytes(0x58 + REG32.indexOf(reg));
  }

  /** `mov` between registers, from a number, or from and to memory. */
  mov(to: Reg32 | Mem, from: Reg32 | Mem | Label | number): void {
    this.#prefix32();
    if (typeof to !== "string") {
      if (typeof from !== "string") throw new UsageError("mov to memory takes a register");
      this.bytes(0x89);
      this.#modrm(REG32.indexOf(from), to);
    } else if (typeof from === "string") {
      this.bytes(0x89);
      this.#modrm(REG32.indexOf(from), to);
    } else if (typeof from === "number") {
      this.bytes(0xb8 + REG32.indexOf(to));
      this.u32(from);
    } else if (from instanceof Label) {
      this.bytes(0xb8 + REG32.indexOf(to));
      this.pointer(from);
    } else {
      this.bytes(0x8b);
      this.#modrm(REG32.indexOf(to), from);
    }
  }

  /** `mov` of 8 bits between registers or from a number. */
  mov8(to: Reg8, from: Reg8 | number): void {
    if (typeof from === "number") this.bytes(0xb0 + REG8.indexOf(to), from);
    else this.bytes(0x88, 0xc0 | (REG8.indexOf(from) << 3) | REG8.indexOf(to));
  }

  /** Loads a segment register from the low half of a register. */
  movSegment(to: SegmentReg, from: Reg32): void {
    this.bytes(0x8e, 0xc0 | ({ es: 0, ss: 2, ds: 3 }[to] << 3) | REG32.indexOf(from));
  }

  /** `mov eax, cr0` */
  readCr0(): void {
    this.bytes(0x0f, 0x20, 0xc0);
  }

  /** `mov cr0, eax` */
  writeCr0(): void {
    this.bytes(0x0f, 0x22, 0xc0);
  }

  /** `add`, `sub`, `xor`, `cmp`, ... of a register or memory with a register, or with a number. */
  op(name: Arithmetic, to: Reg32 | Mem, from: Reg32 | Mem | number): void {
    this.#prefix32();
    const code = ARITHMETIC[name];
    if (typeof from === "number") {
      const short = from >= -128 && from <= 127;
      this.bytes(short ? 0x83 : 0x81);
      this.#modrm(code, to);
      if (short) this.bytes(from);
      else this.u32(from);
    } else if (typeof from === "string") {
      this.bytes((code << 3) | 1);
      this.#modrm(REG32.indexOf(from), to);
    } else {
      if (typeof to !== "string") throw new UsageError(`${name} takes only one memory operand`);
      this.bytes((code << 3) | 3);
      this.#modrm(REG32.indexOf(to), from);
    }
  }

  /** Arithmetic of `al` and a number. */
  opAl(name: Arithmetic, value: number): void {
    this.bytes((ARITHMETIC[name] << 3) | 4, value);
  }

  /** `test reg, number` */
  test(reg: Reg32, value: number): void {
    this.#prefix32();
    if (reg === "eax") this.bytes(0xa9);
    else this.bytes(0xf7, 0xc0 | REG32.indexOf(reg));
    this.u32(value);
  }

  /** `test al, number` */
  testAl(value: number): void {
    this.bytes(0xa8, value);
  }

  /** `inc dword [memory]` or `inc reg` */
  inc(to: Reg32 | Mem): void {
    this.#prefix32();
    this.bytes(0xff);
    this.#modrm(0, to);
  }

  /** `neg reg` */
  neg(reg: Reg32): void {
    this.#prefix32();
    this.bytes(0xf7, 0xd8 | REG32.indexOf(reg));
  }

  /** `not reg` */
  not(reg: Reg32): void {
    this.#prefix32();
    this.bytes(0xf7, 0xd0 | REG32.indexOf(reg));
  }

  /** `imul to, from, number` */
  imul(to: Reg32, from: Reg32, value: number): void {
    this.#prefix32();
    this.bytes(0x69, 0xc0 | (REG32.indexOf(to) << 3) | REG32.indexOf(from));
    this.u32(value);
  }

  bswap(reg: Reg32): void {
    this.#prefix32();
    this.bytes(0x0f, 0xc8 + REG32.indexOf(reg));
  }

  /** `rol reg, count` */
  rol(reg: Reg32, count: number): void {
    this.#prefix32();
    this.bytes(0xc1, 0xc0 | REG32.indexOf(reg), count);
  }

  /** `in al, dx` */
  inAlDx(): void {
    this.bytes(0xec);
  }

  /** `out dx, al` */
  outDxAl(): void {
    this.bytes(0xee);
  }

  /** `out dx, ax` of 32-bit code */
  outDxAx(): void {
    this.bytes(0x66, 0xef);
  }

  /** `in al, port` */
  inAl(port: number): void {
    this.bytes(0xe4, port);
  }

  /** `out port, al` */
  outAl(port: number): void {
    this.bytes(0xe6, port);
  }

  /** `lgdt [label]` of 16-bit code: the label must be in the first 64 KiB. */
  lgdt16(label: Label): void {
    this.bytes(0x0f, 0x01, 0x16);
    this.#refer(label, "abs16", 0);
  }

  /** `jmp selector:label` of 16-bit code: the label must be in the first 64 KiB. */
  farJump16(selector: number, label: Label): void {
    this.bytes(0xea);
    this.#refer(label, "abs16", 0);
    this.u16(selector);
  }

  /** A conditional jump of at most 127 bytes. */
  jump(condition: Condition, label: Label): void {
    this.bytes(0x70 | CONDITIONS[condition]);
    this.#refer(label, "rel8", 0);
  }

  /** A jump of any length, in 32-bit code. */
  jmp(label: Label): void {
    this.bytes(0xe9);
    this.#refer(label, "rel32", 0);
  }

  /** `loope label`: counts ecx down, loops while it is not zero and the zero flag is set. */
  loope(label: Label): void {
    this.bytes(0xe1);
    this.#refer(label, "rel8", 0);
  }

  /** `loop label`: counts ecx down, loops while it is not zero. */
  loop(label: Label): void {
    this.bytes(0xe2);
    this.#refer(label, "rel8", 0);
  }

  /** A call of any length, in 32-bit code. */
  call(label: Label): void {
    this.bytes(0xe8);
    this.#refer(label, "rel32", 0);
  }

  /** The image, with every label resolved. */
  finish(): Uint8Array {
    const image = Uint8Array.from(this.#bytes);
    const view = new DataView(image.buffer);
    for (const { at, label, kind, addend } of this.#fixups) {
      if (label.offset === undefined) throw new UsageError(`Label ${label.name} is not placed`);
      const address = this.#origin + label.offset + addend;
      if (kind === "rel8") {
        const distance = label.offset - (at + 1);
        if (distance < -128 || distance > 127)
          throw new UsageError(`Label ${label.name} is too far for a short jump`);
        view.setInt8(at, distance);
      } else if (kind === "rel32") {
        view.setInt32(at, label.offset - (at + 4), true);
      } else if (kind === "abs32") {
        view.setUint32(at, address, true);
      } else {
        if (address > 0xffff) throw new UsageError(`Label ${label.name} is beyond the first 64 KiB`);
        view.setUint16(at, address, true);
      }
    }
    return image;
  }

  #refer(label: Label, kind: Fixup["kind"], addend: number): void {
    this.#fixups.push({ at: this.size, label, kind, addend });
    if (kind === "rel8") this.bytes(0);
    else if (kind === "abs16") this.u16(0);
    else this.u32(0);
  }

  /** In 16-bit code, 32-bit operands take a prefix. Memory operands are only for 32-bit code. */
  #prefix32(): void {
    if (this.bits === 16) this.bytes(0x66);
  }

  #modrm(middle: number, operand: Reg32 | Mem): void {
    if (typeof operand === "string") {
      this.bytes(0xc0 | (middle << 3) | REG32.indexOf(operand));
      return;
    }
    if (this.bits === 16) throw new UsageError("Memory operands are only for 32-bit code");
    if (operand.offset < -128 || operand.offset > 127)
      throw new UsageError(`Displacement ${operand.offset} is too far`);
    // ebp without a displacement would mean something else.
    const short = operand.offset === 0 && operand.base !== "ebp";
    this.bytes((short ? 0 : 0x40) | (middle << 3) | REG32.indexOf(operand.base));
    if (!short) this.bytes(operand.offset);
  }
}
