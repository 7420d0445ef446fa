import fs from "node:fs";

import { describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../guests/multiboot.js";
import { loadImages, type VmImages } from "../../src/vm/images.js";
import { parseUuid } from "../../src/qapi/uuid.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

function file(name: string, content: Uint8Array = new Uint8Array([1, 2, 3])): string {
  const path = workDir.file(name);
  fs.writeFileSync(path, content);
  return path;
}

/** As much of a Linux kernel as is looked at. */
function linuxImage(): Uint8Array {
  const image = new Uint8Array(4096);
  image.set([0x55, 0xaa], 0x1fe);
  image.set(Buffer.from("HdrS"), 0x202);
  return image;
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
      {
        kernel: file("vmlinuz", linuxImage()),
        initrd: file("initrd"),
        append: "console=ttyS0",
        bios: file("bios"),
      },
      true,
    );
    expect(multiboot).toBeUndefined();
    expect(Object.keys(v86).sort()).toEqual(["bios", "bzimage", "cmdline", "initrd"]);
    expect(v86.cmdline).toBe("console=ttyS0");
  });

  test.each<[string, () => VmImages, string]>([
    ["nothing", () => ({}), "nothing that starts it"],
    ["Linux without a BIOS", () => ({ kernel: file("k", linuxImage()) }), "needs -bios"],
    ["what is no kernel", () => ({ kernel: file("k"), bios: file("b") }), "nor a Linux kernel"],
    ["an empty disk", () => ({ hda: file("d", new Uint8Array(0)), bios: file("b") }), "is empty"],
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

  test("a disk ends with a whole sector", () => {
    const disk = file("disk", new Uint8Array(700).fill(7));
    const { v86 } = loadImages({ bios: file("bios"), hda: disk, cdrom: disk }, true);
    const sizes = [v86.hda, v86.cdrom].map((image) =>
      image !== undefined && "buffer" in image ? image.buffer.byteLength : undefined,
    );
    expect(sizes).toEqual([1024, 2048]);
    const { hda } = v86;
    const bytes = new Uint8Array(hda !== undefined && "buffer" in hda ? hda.buffer : []);
    expect([bytes[699], bytes[700], bytes[1023]]).toEqual([7, 0, 0]);
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
