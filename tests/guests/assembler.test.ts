import { describe, expect, test } from "vitest";

import { Assembler, Label, mem } from "../../guests/assembler.js";
import { buildBootSector } from "../../guests/boot-sector.js";
import { buildMultibootImage } from "../../guests/multiboot.js";
import { parseSerialReport, SerialReport } from "../../guests/serial-report.js";
import { UsageError } from "../../src/errors/index.js";

const MIB = 1 << 20;

/** Hexadecimal bytes of what the callback emits. */
function encode(emit: (asm: Assembler) => void, bits: 16 | 32 = 32, origin = 0): string {
  const asm = new Assembler(origin);
  asm.bits = bits;
  emit(asm);
  return Buffer.from(asm.finish()).toString("hex");
}

/** Expected bytes are from the encodings of the processor's manual, and were compared with a disassembler's reading. */
describe("instructions", () => {
  const cases: readonly (readonly [string, (asm: Assembler) => void, string])[] = [
    ["mov eax, 0x12345678", (a) => a.mov("eax", 0x12345678), "b878563412"],
    ["mov edi, 0xc0000000", (a) => a.mov("edi", 0xc000_0000), "bf000000c0"],
    ["mov ecx, edi", (a) => a.mov("ecx", "edi"), "89f9"],
    ["mov [ebp+4], edi", (a) => a.mov(mem("ebp", 4), "edi"), "897d04"],
    ["mov edx, [ebp]", (a) => a.mov("edx", mem("ebp")), "8b5500"],
    ["mov eax, [edi]", (a) => a.mov("eax", mem("edi")), "8b07"],
    ["mov al, dl", (a) => a.mov8("al", "dl"), "88d0"],
    ["mov dl, 0xf8", (a) => a.mov8("dl", 0xf8), "b2f8"],
    ["mov ss, eax", (a) => a.movSegment("ss", "eax"), "8ed0"],
    ["xor eax, edx", (a) => a.op("xor", "eax", "edx"), "31d0"],
    ["and eax, ebx", (a) => a.op("and", "eax", "ebx"), "21d8"],
    ["and ebx, 1", (a) => a.op("and", "ebx", 1), "83e301"],
    ["cmp eax, [edi]", (a) => a.op("cmp", "eax", mem("edi")), "3b07"],
    ["cmp dword [ebp+16], 0", (a) => a.op("cmp", mem("ebp", 16), 0), "837d1000"],
    ["cmp edi, 0x100000", (a) => a.op("cmp", "edi", MIB), "81ff00001000"],
    ["add [ebp-4], ecx", (a) => a.op("add", mem("ebp", -4), "ecx"), "014dfc"],
    ["cmp al, 0x39", (a) => a.opAl("cmp", 0x39), "3c39"],
    ["test edi, 0xfff", (a) => a.test("edi", 0xfff), "f7c7ff0f0000"],
    ["test eax, 0xfff", (a) => a.test("eax", 0xfff), "a9ff0f0000"],
    ["inc dword [ebp+4]", (a) => a.inc(mem("ebp", 4)), "ff4504"],
    ["neg ebx", (a) => a.neg("ebx"), "f7db"],
    ["not ebx", (a) => a.not("ebx"), "f7d3"],
    ["imul eax, ecx, 0x10001", (a) => a.imul("eax", "ecx", 0x10001), "69c101000100"],
    ["bswap eax", (a) => a.bswap("eax"), "0fc8"],
    ["rol edx, 4", (a) => a.rol("edx", 4), "c1c204"],
    ["push edx", (a) => a.push("edx"), "52"],
    ["pop ebp", (a) => a.pop("ebp"), "5d"],
    ["int 0x13", (a) => a.int(0x13), "cd13"],
    ["rdtsc", (a) => a.rdtsc(), "0f31"],
  ];

  test.each(cases)("%s", (_name, emit, bytes) => {
    expect(encode(emit)).toBe(bytes);
  });

  test("32-bit operands take a prefix in 16-bit code", () => {
    expect(encode((a) => a.mov("eax", 1), 16)).toBe("66b801000000");
    expect(() => encode((a) => a.mov("eax", mem("edi")), 16)).toThrow(UsageError);
  });
});

describe("labels", () => {
  test("jumps lead forwards and backwards from their end", () => {
    const bytes = encode((a) => {
      const end = new Label("end");
      const start = a.here("start");
      a.jump("zero", end);
      a.call(start);
      a.loop(start);
      a.place(end);
    });
    expect(bytes).toBe("7407" + "e8f9ffffff" + "e2f7");
  });

  test("absolute addresses count from the origin", () => {
    const bytes = encode(
      (a) => {
        const here = a.here("here");
        a.lgdt16(here);
        a.farJump16(8, here);
        a.pointer(here, 2);
      },
      16,
      0x7c00,
    );
    expect(bytes).toBe("0f0116007c" + "ea007c0800" + "027c0000");
  });

  test("a short jump cannot go far, and a label must be placed once", () => {
    const far = (a: Assembler): void => {
      const end = new Label("end");
      a.jump("zero", end);
      a.padTo(2 + 128);
      a.place(end);
    };
    expect(() => encode(far)).toThrow(/too far/);
    expect(() => encode((a) => a.jmp(new Label("nowhere")))).toThrow(/not placed/);
    const asm = new Assembler(0);
    const once = asm.here("once");
    expect(() => asm.place(once)).toThrow(/placed twice/);
  });
});

describe("images", () => {
  const options = {
    staticRange: { start: MIB, end: 2 * MIB },
    dirtyRange: { start: 2 * MIB, end: 3 * MIB },
    togglingRange: { start: 3 * MIB, end: 4 * MIB },
    pauseLoops: 1000,
  };

  test("a boot disk is whole sectors with a signature", () => {
    const image = buildBootSector(options);
    expect(image.length % 512).toBe(0);
    expect([image[510], image[511]]).toEqual([0x55, 0xaa]);
  });

  test("a Multiboot header adds up to 0", () => {
    const view = new DataView(buildMultibootImage(options).buffer);
    expect(view.getUint32(0, true)).toBe(0x1bad_b002);
    expect((view.getUint32(0, true) + view.getUint32(4, true) + view.getUint32(8, true)) % 2 ** 32).toBe(0);
    expect(view.getUint32(20, true) - view.getUint32(16, true)).toBe(view.byteLength);
  });

  test.each([
    ["below 1 MiB", { dirtyRange: { start: 0, end: 4096 } }],
    ["no whole pages", { dirtyRange: { start: MIB, end: MIB + 1 } }],
    ["empty", { staticRange: { start: MIB, end: MIB } }],
    ["beyond 3 GiB", { staticRange: { start: MIB, end: 2 ** 32 } }],
    ["overlapping", { ...options, togglingRange: { start: MIB, end: 2 * MIB } }],
  ])("impossible ranges: %s", (_name, wrong) => {
    expect(() => buildBootSector(wrong)).toThrow(UsageError);
  });
});

describe("serial report", () => {
  const line = (pass: number, id = "0000CAFE"): string =>
    `ramport-guest id=${id} pass=${pass.toString(16).toUpperCase().padStart(8, "0")} ok\n`;

  test("reads passes, in pieces, after other output", () => {
    const report = new SerialReport();
    expect(report.push("SeaBIOS\nramport-guest id=0000CAFE start\nramport-guest id=0000CA")).toEqual([]);
    expect(report.startId).toBe("0000CAFE");
    expect(report.push("FE pass=00000001 ok\n")).toEqual([{ id: "0000CAFE", pass: 1 }]);
  });

  test("takes a first line that was cut anywhere", () => {
    for (let cut = 0; cut < line(9).length; cut++) {
      expect(parseSerialReport(line(9).slice(cut) + line(10)).at(-1)).toEqual({ id: "0000CAFE", pass: 10 });
    }
  });

  test("throws on a bad pass, on another guest and on a gap", () => {
    const bad = "ramport-guest id=0000CAFE pass=00000003 BAD addr=00123004\n";
    expect(() => parseSerialReport(line(2) + bad)).toThrow(/wrong memory.*0x00123004/);
    expect(() => parseSerialReport(bad.slice(bad.indexOf("AD addr")))).toThrow(/wrong memory/);
    expect(() => parseSerialReport(line(2) + line(3, "0000BEEF"))).toThrow(/follow each other/);
    expect(() => parseSerialReport(line(2) + line(4))).toThrow(/follow each other/);
  });
});
