/**
 * The guest of the instant-restore tests and benchmarks: it uses all of its memory, also beyond 4 GiB, and knows what
 * has to be in each page.
 *
 * A page holds words that are a function of the guest's random id, the page's number and its generation. Pages are visited in
 * the order of a generator with full period, so that each comes exactly once in a sweep and the generation that a page must
 * have follows from the step: a page that was lost, swapped, or put back to an older state is seen at its next visit.
 *
 * A sweep visits the first `workingSetPages` steps of that order (scattered over all memory), or all pages. Each pass is a
 * part of it and reported like those of `workload.ts`; `memory-load-report.ts` reads what is reported beside. Before its first
 * pass the guest waits while port 0xe9 answers 0xe9, as QEMU's `isa-debugcon` does: the machine that is saved has
 * one, the machine that restores has none, and so the guest goes on with its first instruction there. A key that is pressed makes it check every
 * page, those outside of the working set too.
 *
 * @module
 */

import { UsageError } from "../src/errors/index.js";
import { Label, type Mem, mem } from "./assembler.js";
import { emitLongMode, LongModeAssembler } from "./long-mode.js";
import { Reporting } from "./memory-load-printing.js";
import { buildMultibootProgram, LOAD_ADDRESS } from "./multiboot.js";
import {
  BAD,
  BAD_HIGH,
  BAD_LOW,
  BEGIN_HIGH,
  BEGIN_LOW,
  END_HIGH,
  END_LOW,
  HISTOGRAM,
  HISTOGRAM_WORDS,
  ID,
  LEFT,
  MET,
  PASS,
  STATE,
  STEP,
  SWEEP,
  WALKED,
  X,
} from "./memory-load-state.js";
import { STACK_TOP } from "./workload.js";

/** What a guest does. */
export interface MemoryLoadOptions {
  /** RAM of the machine (type `pc`), a multiple of 2 MiB from 16 MiB to 64 GiB. */
  readonly memoryBytes: number;
  /** How many pages each sweep visits, scattered over all memory; all when not given. */
  readonly workingSetPages?: number;
  /** Passes that make up a sweep, a power of two; default 1. */
  readonly passesPerSweep?: number;
  /** Bytes between two words of a page that are checked and written; default 1364: four words. 4 is the whole page. */
  readonly stride?: 4 | 12 | 44 | 124 | 132 | 372 | 1364;
  /** Whether each visit's first access is timed, and each pass reports how long these and the whole of it took. */
  readonly isTimed?: boolean;
}

const PAGE = 4096;
const GIB = 2 ** 30;
/** A PC with more RAM than this... */
const MOST_BELOW_HOLE = 3.5 * GIB;
/** ... has so much of it below the devices' addresses, and the rest from 4 GiB on. */
const LOW_BYTES = 3 * GIB;
const HOLE_BYTES = GIB;
/** From 1 MiB on memory is free. */
const FIRST_PAGE = 256;
const PAGE_TABLES = 0x2_0000;

/** A generator modulo a power of two with these two has full period. */
const MULTIPLIER = 1_664_525;
const INCREMENT = 1_013_904_223;
/** 2^32 divided by the golden ratio. */
const FACTOR = 0x9e37_79b1;

const DEBUG_PORT = 0xe9;
const KEYBOARD_STATUS = 0x64;
const KEYBOARD_DATA = 0x60;
const KEY_RELEASED = 0x80;

interface Plan {
  readonly pages: number;
  /** Pages from this one on are beyond the hole. */
  readonly lowPages: number;
  /** The generator counts modulo two to this power. */
  readonly bits: number;
  readonly sweepSteps: number;
  readonly passSteps: number;
  readonly stride: number;
  readonly isTimed: boolean;
}

interface Routines {
  /** The next step's page: number in ecx, address in rdi; the zero flag says that the step has none. Uses eax. */
  readonly advance: Label;
  /** Checks the page at rdi, with its number in ecx, for the generation in edx. Uses eax and ebx. */
  readonly check: Label;
  /** Writes it. Uses eax and ebx. */
  readonly stamp: Label;
  /** The value that belongs into the first word becomes eax. */
  readonly value: Label;
  /** Reads the first word of the page at rdi and counts how long that took. Uses eax, edx and esi. */
  readonly touch: Label;
  /** Checks all pages, and reports it. */
  readonly verify: Label;
}

/**
 * Builds the image, for `qemu -kernel`.
 *
 * @throws UsageError when the options are impossible.
 */
export function buildMemoryLoad(options: MemoryLoadOptions): Uint8Array {
  const plan = planOf(options);
  const asm = new LongModeAssembler(LOAD_ADDRESS);
  return buildMultibootProgram(asm, () => {
    const routines: Routines = {
      advance: new Label("advance"),
      check: new Label("check"),
      stamp: new Label("stamp"),
      value: new Label("value"),
      touch: new Label("touch"),
      verify: new Label("verify"),
    };
    asm.cli();
    asm.cld();
    asm.mov("esp", STACK_TOP);
    const bytes = options.memoryBytes + (plan.lowPages < plan.pages ? HOLE_BYTES : 0);
    emitLongMode(asm, PAGE_TABLES, Math.ceil(bytes / GIB));
    const reporting = new Reporting(asm);
    emitStart(asm, plan, routines, reporting);
    emitPasses(asm, plan, routines, reporting);
    emitAdvance(asm, plan, routines.advance);
    emitContent(asm, plan, routines);
    emitTouch(asm, routines.touch);
    emitVerify(asm, plan, routines, reporting);
    reporting.finish();
  });
}

function planOf(options: MemoryLoadOptions): Plan {
  const { memoryBytes, workingSetPages, passesPerSweep = 1, stride = 1364, isTimed = false } = options;
  const pages = memoryBytes / PAGE;
  if (memoryBytes % (2 << 20) !== 0 || memoryBytes < 16 << 20 || memoryBytes > 64 * GIB) {
    throw new UsageError("A guest has 16 MiB to 64 GiB of memory, in steps of 2 MiB", {
      actual: memoryBytes,
    });
  }
  const bits = Math.ceil(Math.log2(pages));
  const sweepSteps = workingSetPages === undefined ? 2 ** bits : stepsOf(workingSetPages, pages, bits);
  const passSteps = sweepSteps / passesPerSweep;
  if (!Number.isInteger(passSteps) || passSteps < 1) {
    throw new UsageError("passesPerSweep must divide the steps of a sweep", { actual: passesPerSweep });
  }
  const lowPages = memoryBytes >= MOST_BELOW_HOLE ? LOW_BYTES / PAGE : pages;
  return { pages, lowPages, bits, sweepSteps, passSteps, stride, isTimed };
}

/** Some steps lead to no page. */
function stepsOf(workingSetPages: number, pages: number, bits: number): number {
  let [x, found, steps] = [0, 0, 0];
  if (!Number.isInteger(workingSetPages) || workingSetPages < 1 || workingSetPages > pages - FIRST_PAGE) {
    throw new UsageError("A working set has from one page to all", { actual: workingSetPages });
  }
  while (found < workingSetPages) {
    x = nextOf(x, bits);
    steps++;
    const page = scatter(x, bits);
    if (page >= FIRST_PAGE && page < pages) found++;
  }
  return steps;
}

function nextOf(x: number, bits: number): number {
  return ((Math.imul(x, MULTIPLIER) + INCREMENT) & (2 ** bits - 1)) >>> 0;
}

/** The generator's low bits repeat soon; with the high ones mixed in, they do not. Different numbers stay different. */
function scatter(x: number, bits: number): number {
  return x ^ (x >>> (bits >> 1));
}

/** Draws the id, brings every page into generation 0, says hello, and waits until it may go on. */
function emitStart(asm: LongModeAssembler, plan: Plan, routines: Routines, reporting: Reporting): void {
  asm.mov("ebp", STATE);
  asm.rdtsc();
  emitMix(asm);
  asm.mov(ID, "eax");
  asm.op("xor", "eax", "eax");
  for (const word of [PASS, BAD, SWEEP, X]) asm.mov(word, "eax");
  asm.mov("eax", plan.sweepSteps);
  asm.mov(STEP, "eax");
  asm.mov("ecx", FIRST_PAGE);
  const next = asm.here("fill");
  emitAddress(asm, plan);
  asm.op("xor", "edx", "edx");
  asm.call(routines.stamp);
  asm.inc("ecx");
  asm.op("cmp", "ecx", plan.pages);
  asm.jump("below", next);
  reporting.header();
  reporting.print(" start\n");
  const wait = asm.here("wait");
  asm.inAl(DEBUG_PORT);
  asm.opAl("cmp", DEBUG_PORT);
  asm.jump("zero", wait);
  reporting.header();
  reporting.print(" goes on\n");
}

function emitPasses(asm: LongModeAssembler, plan: Plan, routines: Routines, reporting: Reporting): void {
  const [noKey, sameSweep, nextStep, noPage] = ["noKey", "sameSweep", "nextStep", "noPage"].map(
    (name) => new Label(name),
  ) as [Label, Label, Label, Label];
  const nextPass = asm.here("nextPass");
  asm.inAl(KEYBOARD_STATUS);
  asm.testAl(1);
  asm.jump("zero", noKey);
  asm.inAl(KEYBOARD_DATA);
  asm.testAl(KEY_RELEASED);
  asm.jump("notZero", noKey);
  asm.call(routines.verify);
  asm.place(noKey);
  asm.inc(PASS);
  asm.op("cmp", STEP, plan.sweepSteps);
  asm.jump("notZero", sameSweep);
  asm.op("xor", "eax", "eax");
  asm.mov(STEP, "eax");
  asm.mov(X, "eax");
  asm.inc(SWEEP);
  asm.place(sameSweep);
  if (plan.isTimed) {
    asm.op("xor", "eax", "eax");
    asm.mov("edi", HISTOGRAM);
    asm.mov("ecx", HISTOGRAM_WORDS);
    asm.bytes(0xf3); // rep
    asm.stosd();
    emitClock(asm, BEGIN_LOW, BEGIN_HIGH);
  }
  asm.mov("eax", plan.passSteps);
  asm.mov(LEFT, "eax");
  asm.place(nextStep);
  asm.inc(STEP);
  asm.call(routines.advance);
  asm.jump("zero", noPage);
  if (plan.isTimed) asm.call(routines.touch);
  asm.mov("edx", SWEEP);
  asm.op("sub", "edx", 1);
  asm.call(routines.check);
  asm.mov("edx", SWEEP);
  asm.call(routines.stamp);
  asm.place(noPage);
  asm.op("sub", LEFT, 1);
  asm.jump("notZero", nextStep);
  if (plan.isTimed) emitClock(asm, END_LOW, END_HIGH);
  reporting.pass();
  if (plan.isTimed) reporting.timing();
  asm.jmp(nextPass);
}

/** rdi becomes the address of the page with the number in ecx: RAM has a hole. */
function emitAddress(asm: LongModeAssembler, { pages, lowPages }: Plan): void {
  asm.mov("edi", "ecx");
  if (lowPages < pages) {
    const low = new Label("low");
    asm.op("cmp", "edi", lowPages);
    asm.jump("below", low);
    asm.op("add", "edi", HOLE_BYTES / PAGE);
    asm.place(low);
  }
  asm.wide();
  asm.shl("edi", 12);
}

/** {@link scatter} of {@link nextOf}, in registers. */
function emitAdvance(asm: LongModeAssembler, plan: Plan, name: Label): void {
  const none = new Label("none");
  asm.place(name);
  asm.mov("eax", X);
  asm.imul("eax", "eax", MULTIPLIER);
  asm.op("add", "eax", INCREMENT);
  asm.op("and", "eax", 2 ** plan.bits - 1);
  asm.mov(X, "eax");
  asm.mov("ecx", "eax");
  asm.shr("eax", plan.bits >> 1);
  asm.op("xor", "ecx", "eax");
  asm.op("cmp", "ecx", FIRST_PAGE);
  asm.jump("below", none);
  asm.op("cmp", "ecx", plan.pages);
  asm.jump("notBelow", none);
  emitAddress(asm, plan);
  // No page is at 0.
  asm.op("cmp", "ecx", 0);
  asm.ret();
  asm.place(none);
  asm.op("xor", "eax", "eax");
  asm.ret();
}

/** eax becomes a hash of itself that looks random in all bits. */
function emitMix(asm: LongModeAssembler): void {
  asm.imul("eax", "eax", FACTOR);
  asm.bswap("eax");
  asm.imul("eax", "eax", FACTOR);
}

function emitContent(asm: LongModeAssembler, { stride }: Plan, routines: Routines): void {
  const words = (PAGE - 4) / stride + 1;
  asm.place(routines.value);
  asm.mov("eax", "edx");
  asm.imul("eax", "eax", FACTOR);
  asm.op("xor", "eax", "ecx");
  asm.op("xor", "eax", ID);
  emitMix(asm);
  asm.ret();
  const eachWord = (name: Label, body: () => void): void => {
    asm.place(name);
    asm.call(routines.value);
    asm.mov("ebx", words);
    const loop = asm.here("nextWord");
    body();
    asm.wide();
    asm.op("add", "edi", stride);
    asm.op("add", "eax", FACTOR);
    asm.op("sub", "ebx", 1);
    asm.jump("notZero", loop);
    asm.wide();
    asm.op("sub", "edi", words * stride);
    asm.ret();
  };
  eachWord(routines.check, () => {
    const good = new Label("good");
    asm.op("cmp", "eax", mem("edi"));
    asm.jump("zero", good);
    asm.op("cmp", BAD, 0);
    asm.jump("notZero", good);
    asm.inc(BAD);
    asm.mov(BAD_LOW, "edi");
    asm.push("eax");
    asm.wide();
    asm.mov("eax", "edi");
    asm.wide();
    asm.shr("eax", 32);
    asm.mov(BAD_HIGH, "eax");
    asm.pop("eax");
    asm.place(good);
  });
  eachWord(routines.stamp, () => asm.mov(mem("edi"), "eax"));
}

function emitClock(asm: LongModeAssembler, low: Mem, high: Mem): void {
  asm.rdtsc();
  asm.mov(low, "eax");
  asm.mov(high, "edx");
}

/** rax becomes the time stamp counter; rdx is lost. */
function emitTicks(asm: LongModeAssembler): void {
  asm.rdtsc();
  asm.wide();
  asm.shl("edx", 32);
  asm.wide();
  asm.op("or", "eax", "edx");
}

/** 16 entries for each power of two: entry 16 x (e - 4) + m for m x 2^(e - 4) ticks, m from 16 to 31. */
function emitTouch(asm: LongModeAssembler, name: Label): void {
  asm.place(name);
  emitTicks(asm);
  asm.wide();
  asm.mov("esi", "eax");
  asm.mov("eax", mem("edi"));
  emitTicks(asm);
  asm.wide();
  asm.op("sub", "eax", "esi");
  asm.wide();
  asm.op("or", "eax", 16);
  asm.push("ecx");
  asm.wide();
  asm.bsr("ecx", "eax");
  asm.op("sub", "ecx", 4);
  asm.wide();
  asm.shrCl("eax");
  asm.shl("ecx", 4);
  asm.op("add", "eax", "ecx");
  asm.pop("ecx");
  asm.shl("eax", 2);
  asm.op("add", "eax", HISTOGRAM);
  asm.mov("esi", "eax");
  asm.inc(mem("esi"));
  asm.ret();
}

/** Walks the whole order once more, beside the sweep: what was visited in it is of its generation, the rest of its set of the one before. */
function emitVerify(asm: LongModeAssembler, plan: Plan, routines: Routines, reporting: Reporting): void {
  const [next, noPage, expected] = ["next", "noPage", "expected"].map((name) => new Label(name)) as [
    Label,
    Label,
    Label,
  ];
  asm.place(routines.verify);
  asm.mov("eax", X);
  asm.push("eax");
  asm.op("xor", "eax", "eax");
  for (const word of [X, WALKED, MET]) asm.mov(word, "eax");
  asm.place(next);
  asm.call(routines.advance);
  asm.jump("zero", noPage);
  asm.inc(MET);
  asm.op("xor", "edx", "edx");
  asm.mov("eax", WALKED);
  asm.op("cmp", "eax", plan.sweepSteps);
  asm.jump("notBelow", expected);
  asm.mov("edx", SWEEP);
  asm.op("cmp", "eax", STEP);
  asm.jump("below", expected);
  asm.op("sub", "edx", 1);
  asm.place(expected);
  asm.call(routines.check);
  asm.place(noPage);
  asm.inc(WALKED);
  asm.op("cmp", WALKED, 2 ** plan.bits);
  asm.jump("notZero", next);
  asm.pop("eax");
  asm.mov(X, "eax");
  reporting.verified();
  asm.ret();
}
