import fs from "node:fs";

import { describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../guests/multiboot.js";
import { loadImages, type VmImages } from "../../src/vm/images.js";
import { parseUuid } from "../../src/vm/uuid.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

function file(name: string, content: Uint8Array = new Uint8Array([1, 2, 3])): string {
  const path = workDir.file(name);
  fs.writeFileSync(path, content);
  return path;
}

describe("images", () => {
  test("a kernel that is a Multiboot image is one", () => {
    const image = buildMultibootImage({});
    const path = file("guest", image);
    for (const images of [{ kernel: path }, { multiboot: path }]) {
      const { multiboot, v86 } = loadImages(images, true);
      expect(multiboot).toEqual(image);
      expect(v86).toEqual({});
    }
  });

  test("another kernel is Linux's, with what belongs to it", () => {
    const { multiboot, v86 } = loadImages(
      { kernel: file("vmlinuz"), initrd: file("initrd"), append: "console=ttyS0", bios: file("bios") },
      true,
    );
    expect(multiboot).toBeUndefined();
    expect(Object.keys(v86).sort()).toEqual(["bios", "bzimage", "cmdline", "initrd"]);
    expect(v86.cmdline).toBe("console=ttyS0");
  });

  test.each<[string, () => VmImages, string]>([
    ["nothing", () => ({}), "nothing that starts it"],
    ["Linux without a BIOS", () => ({ kernel: file("k") }), "needs -bios"],
    ["two kernels", () => ({ kernel: file("k"), multiboot: file("m") }), "one kernel"],
    ["an initrd alone", () => ({ initrd: file("i"), bios: file("b") }), "add -kernel"],
    [
      "a VGA BIOS alone",
      () => ({ multiboot: file("m", buildMultibootImage({})), vgaBios: file("v") }),
      "add -bios",
    ],
    ["what is no Multiboot image", () => ({ multiboot: file("m") }), "no Multiboot image"],
    ["a file that is not there", () => ({ bios: "/nowhere/bios" }), "/nowhere/bios does not exist"],
  ])("%s is refused", (_, images, message) => {
    expect(() => loadImages(images(), true)).toThrow(message);
  });

  test("a machine whose guest comes by a migration needs nothing", () => {
    expect(loadImages({}, false)).toEqual({ v86: {} });
  });
});

describe("a UUID", () => {
  test("has its bytes in the order in which they are written", () => {
    expect(Buffer.from(parseUuid("00112233-4455-6677-8899-AABBCCDDEEFF")).toString("hex")).toBe(
      "00112233445566778899aabbccddeeff",
    );
  });

  test.each(["", "x", "00112233445566778899aabbccddeeff", "00112233-4455-6677-8899-aabbccddeefg"])(
    "%j is none",
    (text) => {
      expect(() => parseUuid(text)).toThrow(/is no UUID/);
    },
  );
});
