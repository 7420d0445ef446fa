/**
 * What the program of `memory-load.ts` says on COM1, and how.
 *
 * @module
 */

import { Label, type Mem } from "./assembler.js";
import type { LongModeAssembler } from "./long-mode.js";
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
  MET,
  PASS,
} from "./memory-load-state.js";

const COM1 = 0x3f8;
const LINE_STATUS = COM1 + 5;
const CAN_TRANSMIT = 0x20;

/** Appends calls that print. They may use every register but ebp and esp. */
export class Reporting {
  readonly #asm: LongModeAssembler;
  readonly #texts = new Map<string, Label>();
  readonly #text = new Label("text");
  readonly #hex = new Label("hex");
  readonly #send = new Label("send");
  readonly #header = new Label("header");
  readonly #verdict = new Label("verdict");

  constructor(asm: LongModeAssembler) {
    this.#asm = asm;
  }

  /** Start of a line. */
  header(): void {
    this.#asm.call(this.#header);
  }

  print(text: string): void {
    const label = this.#texts.get(text) ?? new Label(`text ${JSON.stringify(text)}`);
    this.#texts.set(text, label);
    this.#asm.mov("esi", label);
    this.#asm.call(this.#text);
  }

  /** The end of a pass, in the words of `workload.ts`. */
  pass(): void {
    this.header();
    this.print(" pass=");
    this.#number(PASS);
    this.#asm.call(this.#verdict);
  }

  /** The pass's time stamps, and the entries of the histogram that are not 0. */
  timing(): void {
    const asm = this.#asm;
    this.header();
    this.print(" timed=");
    this.#number(PASS);
    this.print(" from=");
    this.#number(BEGIN_HIGH);
    this.#number(BEGIN_LOW);
    this.print(" to=");
    this.#number(END_HIGH);
    this.#number(END_LOW);
    asm.op("xor", "edi", "edi");
    const [next, empty] = [asm.here("nextEntry"), new Label("empty")];
    asm.mov("eax", "edi");
    asm.shl("eax", 2);
    asm.op("add", "eax", HISTOGRAM);
    asm.mov("ebx", "eax");
    asm.mov("ebx", { base: "ebx", offset: 0 });
    asm.op("cmp", "ebx", 0);
    asm.jump("zero", empty);
    this.print(" ");
    asm.mov("edx", "edi");
    asm.call(this.#hex);
    this.print(":");
    asm.mov("edx", "ebx");
    asm.call(this.#hex);
    asm.place(empty);
    asm.inc("edi");
    asm.op("cmp", "edi", HISTOGRAM_WORDS);
    asm.jump("below", next);
    this.print("\n");
  }

  /** The end of a walk over all pages. */
  verified(): void {
    this.header();
    this.print(" verified=");
    this.#number(MET);
    this.print(" pass=");
    this.#number(PASS);
    this.#asm.call(this.#verdict);
  }

  /** Appends the routines and texts. */
  finish(): void {
    this.#emitVerdict();
    this.#emitHeader();
    this.#emitText();
    this.#emitHex();
    this.#emitSend();
    for (const [text, label] of this.#texts) {
      this.#asm.place(label);
      this.#asm.text(text);
    }
  }

  #number(word: Mem): void {
    this.#asm.mov("edx", word);
    this.#asm.call(this.#hex);
  }

  #emitVerdict(): void {
    const bad = new Label("bad");
    this.#asm.place(this.#verdict);
    this.#asm.op("cmp", BAD, 0);
    this.#asm.jump("notZero", bad);
    this.print(" ok\n");
    this.#asm.ret();
    this.#asm.place(bad);
    this.print(" BAD addr=");
    this.#number(BAD_HIGH);
    this.#number(BAD_LOW);
    this.print("\n");
    this.#asm.ret();
  }

  #emitHeader(): void {
    this.#asm.place(this.#header);
    this.print("ramport-guest id=");
    this.#number(ID);
    this.#asm.ret();
  }

  /** The text at esi, up to its zero byte. */
  #emitText(): void {
    const asm = this.#asm;
    const end = new Label("textEnd");
    asm.place(this.#text);
    const next = asm.here("nextByte");
    asm.lodsb();
    asm.testAl(0xff);
    asm.jump("zero", end);
    asm.call(this.#send);
    asm.jmp(next);
    asm.place(end);
    asm.ret();
  }

  /** The number in edx, as eight hexadecimal digits. */
  #emitHex(): void {
    const asm = this.#asm;
    const digit = new Label("digit");
    asm.place(this.#hex);
    asm.mov("ecx", 8);
    const next = asm.here("nextDigit");
    asm.rol("edx", 4);
    asm.mov8("al", "dl");
    asm.opAl("and", 15);
    asm.opAl("add", 0x30);
    asm.opAl("cmp", 0x39);
    asm.jump("belowOrEqual", digit);
    asm.opAl("add", 0x41 - 0x3a);
    asm.place(digit);
    asm.call(this.#send);
    asm.loop(next);
    asm.ret();
  }

  /** The character in al. */
  #emitSend(): void {
    const asm = this.#asm;
    asm.place(this.#send);
    asm.push("edx");
    asm.mov8("ah", "al");
    asm.mov("edx", LINE_STATUS);
    const wait = asm.here("wait");
    asm.inAlDx();
    asm.testAl(CAN_TRANSMIT);
    asm.jump("zero", wait);
    asm.mov8("dl", COM1 & 0xff);
    asm.mov8("al", "ah");
    asm.outDxAl();
    asm.pop("edx");
    asm.ret();
  }
}
