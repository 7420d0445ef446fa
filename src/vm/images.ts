import fs from "node:fs";

import { systemError } from "../channels/index.js";
import { UsageError } from "../errors/index.js";
import type { V86HostOptions } from "../hosts/v86/index.js";

/** Paths of what a machine is made of. */
export interface VmImages {
  /** A Linux bzImage, or a Multiboot image. */
  readonly kernel?: string;
  /** A Multiboot image, started without a BIOS. */
  readonly multiboot?: string;
  readonly initrd?: string;
  /** Command line of the kernel. */
  readonly append?: string;
  readonly bios?: string;
  readonly vgaBios?: string;
  /** Disks are read whole: what the guest writes stays in its machine, and travels with it. */
  readonly hda?: string;
  readonly fda?: string;
  readonly cdrom?: string;
}

/** Options of a V86Host that the images make. */
export interface LoadedImages {
  readonly multiboot?: Uint8Array;
  readonly v86: NonNullable<V86HostOptions["v86"]>;
}

const MULTIBOOT_MAGIC = 0x1bad_b002;
/** A Multiboot header lies somewhere in the first 8 KiB, at a multiple of 4. */
const MULTIBOOT_SEARCH_BYTES = 8192;

/**
 * Reads a machine's images.
 *
 * @param starts Whether something has to start the machine; one whose guest comes by a migration needs nothing.
 * @throws UsageError for images that cannot go together; MachineError `io`.
 */
export function loadImages(images: VmImages, starts: boolean): LoadedImages {
  if (images.kernel !== undefined && images.multiboot !== undefined)
    throw new UsageError("A machine starts one kernel: give -kernel or -multiboot");
  const kernel = images.kernel === undefined ? undefined : readImage(images.kernel);
  const multiboot =
    kernel !== undefined && hasMultibootHeader(kernel)
      ? kernel
      : images.multiboot === undefined
        ? undefined
        : readImage(images.multiboot);
  if (images.multiboot !== undefined && (multiboot === undefined || !hasMultibootHeader(multiboot)))
    throw new UsageError(`${images.multiboot} is no Multiboot image`);
  checkCombination(images, !starts || multiboot !== undefined);
  const disk = (path: string | undefined): { buffer: ArrayBuffer } | undefined =>
    path === undefined ? undefined : { buffer: readImage(path).buffer };
  const v86 = {
    bios: disk(images.bios),
    vga_bios: disk(images.vgaBios),
    bzimage: kernel === undefined || kernel === multiboot ? undefined : { buffer: kernel.buffer },
    initrd: disk(images.initrd),
    hda: disk(images.hda),
    fda: disk(images.fda),
    cdrom: disk(images.cdrom),
    cmdline: images.append,
  };
  const given = Object.fromEntries(Object.entries(v86).filter(([, value]) => value !== undefined));
  return { v86: given, ...(multiboot === undefined ? {} : { multiboot }) };
}

function checkCombination(images: VmImages, needsNoBios: boolean): void {
  const hasKernel = images.kernel !== undefined || images.multiboot !== undefined;
  if (!hasKernel && (images.initrd !== undefined || images.append !== undefined))
    throw new UsageError("-initrd and -append are for a kernel: add -kernel");
  if (images.vgaBios !== undefined && images.bios === undefined)
    throw new UsageError("-vgabios is started by a BIOS: add -bios");
  if (images.bios !== undefined || needsNoBios) return;
  throw new UsageError("This machine has nothing that starts it", {
    hint: hasKernel
      ? "a Linux kernel needs -bios (SeaBIOS), and -vgabios for a display"
      : "give -bios (SeaBIOS) and a disk or kernel, or -multiboot",
  });
}

function hasMultibootHeader(image: Uint8Array): boolean {
  const view = new DataView(image.buffer, image.byteOffset, Math.min(image.length, MULTIBOOT_SEARCH_BYTES));
  for (let at = 0; at + 12 <= view.byteLength; at += 4) {
    if (view.getUint32(at, true) !== MULTIBOOT_MAGIC) continue;
    const sum = MULTIBOOT_MAGIC + view.getUint32(at + 4, true) + view.getUint32(at + 8, true);
    if (sum % 2 ** 32 === 0) return true;
  }
  return false;
}

/** The file, in a buffer of its own: v86 takes whole buffers. */
function readImage(path: string): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(fs.readFileSync(path));
  } catch (cause) {
    throw systemError("Reading", path, cause);
  }
}
