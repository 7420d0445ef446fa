import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { UsageError } from "../../../src/errors/index.js";
import {
  argumentsOfClone,
  formatQemuCommandLine,
  joinParts,
  parseParts,
  parseQemuCommandLine,
  parseSize,
  part,
} from "../../../src/session/clone/qemu-options.js";

describe("parseQemuCommandLine", () => {
  test("a value may look like an option, and -M is -machine", () => {
    const line = parseQemuCommandLine([
      ...["qemu-system-x86_64", "-append", "-m 1G", "-S", "-M", "pc", "--m", "2G", "disk.img"],
    ]);
    expect(line.program).toEqual(["qemu-system-x86_64"]);
    expect(line.options).toEqual([
      { name: "append", word: "-append", value: "-m 1G" },
      { name: "S", word: "-S" },
      { name: "machine", word: "-M", value: "pc" },
      { name: "m", word: "--m", value: "2G" },
      { name: "", word: "disk.img" },
    ]);
  });

  test.each([
    [["sudo", "-u", "qemu", "/usr/bin/qemu-system-x86_64", "-S"], 4],
    [["sudo", "-g", "kvm", "qemu-system-x86_64", "-S"], 4],
    [["/lib/ld.so", "--library-path", "/a", "/opt/qemu-system-aarch64", "-S"], 4],
    [["/usr/libexec/qemu-kvm", "-S"], 1],
    [["/lib64/ld-linux-x86-64.so.2", "--library-path", "/a", "/opt/qemu-system-aarch64", "-S"], 4],
    [["./my-own-qemu", "-S"], 1],
  ])("%j: the program has %i words", (argv, words) => {
    const { program, options } = parseQemuCommandLine(argv);
    expect(program).toEqual(argv.slice(0, words));
    expect(options).toEqual([{ name: "S", word: "-S" }]);
  });

  test("a value that is called as QEMUs are does not make another program of it", () => {
    const { program, options } = parseQemuCommandLine(["/opt/vm", "-kernel", "/boot/kvm", "-m", "1G"]);
    expect(program).toEqual(["/opt/vm"]);
    expect(options.map(({ name, value }) => [name, value])).toEqual([
      ["kernel", "/boot/kvm"],
      ["m", "1G"],
    ]);
  });

  test("behind a wrapper the QEMU has to be called as one", () => {
    expect(() => parseQemuCommandLine(["/usr/bin/nice", "./vm", "-m", "1G"])).toThrow(
      "Which word behind /usr/bin/nice is the QEMU cannot be told",
    );
  });

  test("none at all", () => {
    expect(() => parseQemuCommandLine([])).toThrow(UsageError);
  });

  test("whatever it is, no word is lost", () => {
    const word = fc.oneof(
      fc.string(),
      fc.constantFrom("-m", "-S", "-machine", "-object", "qemu-system-arm", "-", "--"),
    );
    fc.assert(
      fc.property(fc.array(word, { minLength: 1 }), (argv) => {
        expect(formatQemuCommandLine(parseQemuCommandLine(argv))).toEqual(argv);
      }),
    );
  });
});

describe("parseParts", () => {
  test.each([
    ["pc", [["type", "pc"]]],
    [
      "pc,accel=tcg",
      [
        ["type", "pc"],
        ["accel", "tcg"],
      ],
    ],
    [
      "accel=tcg,type=pc",
      [
        ["accel", "tcg"],
        ["type", "pc"],
      ],
    ],
    [
      "a,b",
      [
        ["type", "a"],
        ["b", "on"],
      ],
    ],
    [
      "path=a,,b,x=1",
      [
        ["path", "a,b"],
        ["x", "1"],
      ],
    ],
    [
      "path=a,,,x=1",
      [
        ["path", "a,"],
        ["x", "1"],
      ],
    ],
    [
      "path=a=b,x=",
      [
        ["path", "a=b"],
        ["x", ""],
      ],
    ],
    ["path=a,,", [["path", "a,"]]],
  ])("%s", (text, parts) => {
    expect(parseParts(text, "type").map(({ key, value }) => [key, value])).toEqual(parts);
  });

  test("joined they are what they were", () => {
    const text = fc.string({ unit: fc.constantFrom(",", "=", "a", "b") });
    fc.assert(
      fc.property(text, (value) => {
        expect(joinParts(parseParts(value, "type"))).toBe(value);
      }),
    );
  });

  test("what is made here is read back, whatever it holds", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (one, two) => {
        const text = joinParts([part("one", one), part("two", two)]);
        expect(parseParts(text, "type").map(({ value }) => value)).toEqual([one, two]);
      }),
    );
  });
});

test.each([
  ["2048", 2 ** 31],
  ["2G", 2 ** 31],
  ["2g", 2 ** 31],
  ["1.5G", 1.5 * 2 ** 30],
  ["34824K", 34_824 * 1024],
  ["4096B", 4096],
  ["0x800", 2 ** 31],
  ["2 G", undefined],
  ["", undefined],
  ["-1", undefined],
])("-m %s is %s bytes", (text, bytes) => {
  expect(parseSize(text, 1 << 20)).toBe(bytes);
});

test("{n} is a clone's number wherever it stands", () => {
  expect(argumentsOfClone(["file:/{n}/s{n}.log", "{{n}}", "n"], 7)).toEqual(["file:/7/s7.log", "{7}", "n"]);
});
