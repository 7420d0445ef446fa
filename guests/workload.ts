/**
 * The program that the test guests run: it fills and rewrites memory in a way that it can check itself, and reports on
 * COM1 after each pass. What it says is parsed by `serial-report.ts`.
 *
 * A value in memory is a function of the guest's random id, the address and (where it changes) the pass. A page that
 * was lost, restored from the wrong moment, or swapped with another one is therefore seen, and stays reported for good.
 *
 * The program is 32-bit code in a flat address space, with interrupts off. All of its state is in registers and in a
 * few words of low memory.
 *
 * @module
 */

import { UsageError } from "../src/errors/index.js";
import { Assembler, Label, mem } from "./assembler.js";

/** Guest addresses, from `start` up to but not including `end`; multiples of the page size. */
export interface AddressRange {
  readonly start: number;
  readonly end: number;
}

/** What a guest does. Without any range it only counts passes. */
export interface WorkloadOptions {
  /** Filled once with dense data, and then checked piece by piece. */
  readonly staticRange?: AddressRange;
  /** How many pages of the static range each pass checks; default 64. */
  readonly staticPagesPerPass?: number;
  /** Checked and rewritten as a whole by each pass. */
  readonly dirtyRange?: AddressRange;
  /** Checked and rewritten by each pass: dense after odd passes, all zero after even ones. */
  readonly togglingRange?: AddressRange;
  /**
   * Bytes between two checked words of a page; default 372. It divides 4092, so that the first and the last word of a
   * page are always among them; 4 checks everything.
   */
  readonly checkStride?: 4 | 12 | 44 | 132 | 124 | 372 | 1364;
  /**
   * After the pass with this number the guest goes to sleep (ACPI S3), once. What wakes it resets it: it goes on with the
   * next pass and the memory that it had. What wakes it has to enter it again at its first instruction.
   */
  readonly sleepAfterPass?: number;
  /** ACPI's PM1a_CNT, in which it asks for that; default 0x604, as QEMU's firmware has it. */
  readonly sleepPort?: number;
  /** Empty loops after each pass, to slow the guest down; default 0. */
  readonly pauseLoops?: number;
}

const PAGE = 4096;
const MIB = 1 << 20;
/** Above are devices: the address space of a PC has no RAM from 3 GiB on. */
const HIGHEST = 0xc000_0000;

/** The stack grows down from here, in both kinds of guest. */
export const STACK_TOP = 0x7c00;
/** Low memory that nothing else uses. */
const STATE = 0x7000;

const ID = mem("ebp", 0);
const PASS = mem("ebp", 4);
/** Mixed into the values of the ranges that change: of this pass and of the one before. */
const SALT = mem("ebp", 8);
const OLD_SALT = mem("ebp", 12);
/** Address of the first mismatch, 0 while there is none. */
const BAD = mem("ebp", 16);
/** Next page of the static range to check. */
const CURSOR = mem("ebp", 20);

/** {@link SLEPT_MAGIC} in a guest that has gone to sleep. */
const SLEPT = mem("ebp", 24);
const SLEPT_MAGIC = 0x5133_7a7a;
/** Where the state of a guest that sleeps is: the firmware, which runs when it wakes, uses low memory itself. */
const SLEEPERS_STATE = MIB;
const SMI_COMMAND = 0xb2;
const ACPI_ENABLE = 0xf1;
const PM1_CONTROL = 0x604;
/** SCI_EN, sleep type 1 (S3 of QEMU's PCs), SLP_EN. */
const SLEEP = 0x0001 | (1 << 10) | 0x2000;

/** 2^32 divided by the golden ratio: odd, and its bits look random. */
const FACTOR = 0x9e37_79b1;

const COM1 = 0x3f8;
const LINE_STATUS = COM1 + 5;
const CAN_TRANSMIT = 0x20;
/** Where no UART answers the status, a character is sent after so many questions. */
const STATUS_POLLS = 0x4000;

interface Routines {
  readonly check: Label;
  readonly fill: Label;
  readonly print: Label;
  readonly printHex: Label;
  readonly header: Label;
}

/**
 * Appends the program. Execution must enter at its first byte, in flat 32-bit protected mode.
 *
 * @throws UsageError when a range is not in memory that the guest may overwrite.
 */
export function assembleWorkload(asm: Assembler, options: WorkloadOptions): void {
  checkOptions(options);
  const routines: Routines = {
    check: new Label("check"),
    fill: new Label("fill"),
    print: new Label("print"),
    printHex: new Label("printHex"),
    header: new Label("header"),
  };
  const texts = new Map<string, Label>();
  asm.bits = 32;
  const nextPass = new Label("nextPass");
  emitStart(asm, options, routines, texts, nextPass);
  asm.place(nextPass);
  emitPass(asm, options, routines);
  emitReport(asm, routines, texts);
  if (options.sleepAfterPass !== undefined)
    emitSleep(asm, options.sleepAfterPass, options.sleepPort ?? PM1_CONTROL);
  if (options.pauseLoops !== undefined && options.pauseLoops > 0) {
    asm.mov("ecx", options.pauseLoops);
    asm.loop(asm.here("pause"));
  }
  asm.jmp(nextPass);
  emitCheck(asm, routines.check, options.checkStride ?? 372);
  emitFill(asm, routines.fill);
  emitPrinting(asm, routines, texts);
  for (const [text, label] of texts) {
    asm.place(label);
    asm.text(text);
  }
}

function checkOptions(options: WorkloadOptions): void {
  const ranges = [options.staticRange, options.dirtyRange, options.togglingRange].filter(
    (r) => r !== undefined,
  );
  for (const { start, end } of ranges) {
    const whole = Number.isInteger(start / PAGE) && Number.isInteger(end / PAGE);
    if (!whole || start < MIB || end <= start || end > HIGHEST) {
      throw new UsageError(`A guest cannot use the range from ${start} to ${end}`, {
        hint: "whole pages between 1 MiB and 3 GiB are possible",
      });
    }
  }
  if (options.sleepAfterPass !== undefined && ranges.some(({ start }) => start === SLEEPERS_STATE)) {
    throw new UsageError("A guest that sleeps keeps its state in the first page from 1 MiB on");
  }
  ranges.sort((a, b) => a.start - b.start);
  for (const [i, range] of ranges.entries()) {
    const next = ranges[i + 1];
    if (next !== undefined && next.start < range.end) throw new UsageError("Two ranges of a guest overlap");
  }
  const pages = options.staticPagesPerPass ?? 1;
  if (!Number.isInteger(pages) || pages < 1)
    throw new UsageError("staticPagesPerPass must be a positive integer");
}

/** Draws the id, says hello and brings the ranges into the state that pass 0 would have left. */
function emitStart(
  asm: Assembler,
  options: WorkloadOptions,
  routines: Routines,
  texts: Map<string, Label>,
  nextPass: Label,
): void {
  asm.cli();
  asm.cld();
  asm.mov("esp", STACK_TOP);
  if (options.sleepAfterPass === undefined) asm.mov("ebp", STATE);
  else {
    const cold = new Label("cold");
    asm.mov("ebp", SLEEPERS_STATE);
    asm.op("cmp", SLEPT, SLEPT_MAGIC);
    asm.jump("notZero", cold);
    asm.jmp(nextPass);
    asm.place(cold);
  }
  asm.rdtsc();
  emitMix(asm, "edx");
  asm.mov(ID, "eax");
  asm.mov(SALT, "eax");
  asm.op("xor", "eax", "eax");
  asm.mov(PASS, "eax");
  asm.mov(BAD, "eax");
  asm.call(routines.header);
  emitPrint(asm, routines, texts, " start\n");
  asm.mov("edx", ID);
  if (options.staticRange !== undefined) {
    asm.mov("ecx", options.staticRange.start);
    asm.mov(CURSOR, "ecx");
  }
  for (const [range, mask] of [
    [options.staticRange, -1],
    [options.dirtyRange, -1],
    [options.togglingRange, 0],
  ] as const) {
    if (range === undefined) continue;
    asm.mov("ebx", mask);
    emitRange(asm, range);
    asm.call(routines.fill);
  }
}

function emitPass(asm: Assembler, options: WorkloadOptions, routines: Routines): void {
  const { staticRange, dirtyRange, togglingRange } = options;
  asm.inc(PASS);
  asm.mov("eax", SALT);
  asm.mov(OLD_SALT, "eax");
  asm.op("add", "eax", FACTOR);
  asm.mov(SALT, "eax");
  asm.mov("ebx", -1);
  if (staticRange !== undefined) {
    emitStaticPart(asm, staticRange, options.staticPagesPerPass ?? 64, routines);
  }
  if (dirtyRange !== undefined) {
    asm.mov("edx", OLD_SALT);
    emitRange(asm, dirtyRange);
    asm.call(routines.check);
    asm.mov("edx", SALT);
    asm.mov("edi", dirtyRange.start);
    asm.call(routines.fill);
  }
  if (togglingRange !== undefined) {
    // The mask of an odd pass has all bits, the one of an even pass none.
    asm.mov("ebx", PASS);
    asm.op("and", "ebx", 1);
    asm.neg("ebx");
    asm.not("ebx");
    asm.mov("edx", OLD_SALT);
    emitRange(asm, togglingRange);
    asm.call(routines.check);
    asm.not("ebx");
    asm.mov("edx", SALT);
    asm.mov("edi", togglingRange.start);
    asm.call(routines.fill);
  }
}

/** Checks the next pages of the static range; expects the mask in ebx. */
function emitStaticPart(asm: Assembler, range: AddressRange, pages: number, routines: Routines): void {
  const notBeyond = new Label("notBeyond");
  const notAtEnd = new Label("notAtEnd");
  // The end of a part can be beyond the range, but not beyond the numbers: the range is below 3 GiB.
  const bytes = Math.min(pages * PAGE, range.end - range.start);
  asm.mov("edx", ID);
  asm.mov("edi", CURSOR);
  asm.mov("ecx", "edi");
  asm.op("add", "ecx", bytes);
  asm.op("cmp", "ecx", range.end);
  asm.jump("belowOrEqual", notBeyond);
  asm.mov("ecx", range.end);
  asm.place(notBeyond);
  asm.call(routines.check);
  asm.op("cmp", "edi", range.end);
  asm.jump("below", notAtEnd);
  asm.mov("edi", range.start);
  asm.place(notAtEnd);
  asm.mov(CURSOR, "edi");
}

function emitReport(asm: Assembler, routines: Routines, texts: Map<string, Label>): void {
  const end = new Label("end");
  asm.call(routines.header);
  emitPrint(asm, routines, texts, " pass=");
  asm.mov("edx", PASS);
  asm.call(routines.printHex);
  asm.mov("edx", BAD);
  asm.op("cmp", "edx", 0);
  asm.mov("esi", textLabel(texts, " ok"));
  asm.jump("zero", end);
  emitPrint(asm, routines, texts, " BAD addr=");
  asm.call(routines.printHex);
  asm.mov("esi", textLabel(texts, ""));
  asm.place(end);
  asm.call(routines.print);
  emitPrint(asm, routines, texts, "\n");
}

function emitSleep(asm: Assembler, afterPass: number, port: number): void {
  const awake = new Label("awake");
  asm.op("cmp", PASS, afterPass);
  asm.jump("notZero", awake);
  asm.mov("eax", SLEPT_MAGIC);
  asm.mov(SLEPT, "eax");
  asm.mov8("al", ACPI_ENABLE);
  asm.outAl(SMI_COMMAND);
  asm.mov("eax", SLEEP);
  asm.mov("edx", port);
  asm.outDxAx();
  asm.jmp(asm.here("asleep"));
  asm.place(awake);
}

/** Loads the registers that {@link emitCheck} and {@link emitFill} take a range in. */
function emitRange(asm: Assembler, range: AddressRange): void {
  asm.mov("edi", range.start);
  asm.mov("ecx", range.end);
}

/**
 * eax becomes a hash of itself and a salt. A multiplication alone leaves the low bits of neighbours alike; turned over
 * and multiplied again, all bits look random.
 */
function emitMix(asm: Assembler, salt: "edx"): void {
  asm.op("xor", "eax", salt);
  asm.imul("eax", "eax", FACTOR);
  asm.bswap("eax");
  asm.imul("eax", "eax", FACTOR);
}

/** eax becomes the value that belongs at edi, for the salt in edx and the mask in ebx. */
function emitValue(asm: Assembler): void {
  asm.mov("eax", "edi");
  emitMix(asm, "edx");
  asm.op("and", "eax", "ebx");
}

/** Checks some words of each page from edi to ecx; edi ends at ecx, eax is lost. */
function emitCheck(asm: Assembler, name: Label, stride: number): void {
  const good = new Label("good");
  const nextPage = new Label("nextPage");
  asm.place(name);
  const loop = asm.here("checkLoop");
  emitValue(asm);
  asm.op("cmp", "eax", mem("edi"));
  asm.jump("zero", good);
  asm.op("cmp", BAD, 0);
  asm.jump("notZero", good);
  asm.mov(BAD, "edi");
  asm.place(good);
  // After the last word of a page, the first one of the next page.
  asm.op("add", "edi", 4);
  asm.test("edi", PAGE - 1);
  asm.jump("zero", nextPage);
  asm.op("add", "edi", stride - 4);
  asm.place(nextPage);
  asm.op("cmp", "edi", "ecx");
  asm.jump("below", loop);
  asm.ret();
}

/** Writes every word from edi to ecx; edi ends at ecx, eax is lost. */
function emitFill(asm: Assembler, name: Label): void {
  asm.place(name);
  const loop = asm.here("fillLoop");
  emitValue(asm);
  asm.stosd();
  asm.op("cmp", "edi", "ecx");
  asm.jump("below", loop);
  asm.ret();
}

function textLabel(texts: Map<string, Label>, text: string): Label {
  const label = texts.get(text) ?? new Label(`text ${JSON.stringify(text)}`);
  texts.set(text, label);
  return label;
}

function emitPrint(asm: Assembler, routines: Routines, texts: Map<string, Label>, text: string): void {
  asm.mov("esi", textLabel(texts, text));
  asm.call(routines.print);
}

/** The routines that write to COM1. They keep every register but esi. */
function emitPrinting(asm: Assembler, routines: Routines, texts: Map<string, Label>): void {
  const send = new Label("send");
  // Start of each line.
  asm.place(routines.header);
  emitPrint(asm, routines, texts, "ramport-guest id=");
  asm.push("edx");
  asm.mov("edx", ID);
  asm.call(routines.printHex);
  asm.pop("edx");
  asm.ret();

  // The text at esi, up to its zero byte.
  asm.place(routines.print);
  const textEnd = new Label("textEnd");
  asm.push("eax");
  const nextByte = asm.here("nextByte");
  asm.lodsb();
  asm.testAl(0xff);
  asm.jump("zero", textEnd);
  asm.call(send);
  asm.jmp(nextByte);
  asm.place(textEnd);
  asm.pop("eax");
  asm.ret();

  // The number in edx, as eight hexadecimal digits.
  asm.place(routines.printHex);
  const digit = new Label("digit");
  asm.pusha();
  asm.mov("ecx", 8);
  const nextDigit = asm.here("nextDigit");
  asm.rol("edx", 4);
  asm.mov8("al", "dl");
  asm.opAl("and", 15);
  asm.opAl("add", 0x30);
  asm.opAl("cmp", 0x39);
  asm.jump("belowOrEqual", digit);
  asm.opAl("add", 0x41 - 0x3a);
  asm.place(digit);
  asm.call(send);
  asm.loop(nextDigit);
  asm.popa();
  asm.ret();

  // The character in al.
  asm.place(send);
  asm.pusha();
  asm.mov8("ah", "al");
  asm.mov("edx", LINE_STATUS);
  asm.mov("ecx", STATUS_POLLS);
  const wait = asm.here("wait");
  asm.inAlDx();
  asm.testAl(CAN_TRANSMIT);
  asm.loope(wait);
  asm.mov8("dl", COM1 & 0xff);
  asm.mov8("al", "ah");
  asm.outDxAl();
  asm.popa();
  asm.ret();
}
