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
/** Linux's boot protocol: both lie in the image's first kilobyte, whose header ends behind them. */
const LINUX_BOOT_FLAG = { at: 0x1fe, value: 0xaa55 } as const;
const LINUX_MAGIC = { at: 0x202, value: 0x5372_6448 } as const;
const LEAST_LINUX_BYTES = 0x268;
/** v86 reads whole sectors and breaks off at one that is not all there. */
const SECTOR_BYTES = { hda: 512, fda: 512, cdrom: 2048 } as const;
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
  if (kernel !== undefined && kernel !== multiboot && !hasLinuxHeader(kernel))
    throw new UsageError(`${images.kernel} is neither a Multiboot image nor a Linux kernel (bzImage)`);
  checkCombination(images, !starts || multiboot !== undefined);
  const whole = (path: string | undefined): { buffer: ArrayBuffer } | undefined =>
    path === undefined ? undefined : { buffer: readImage(path).buffer };
  const disk = (kind: keyof typeof SECTOR_BYTES): { buffer: ArrayBuffer } | undefined => {
    const path = images[kind];
    return path === undefined ? undefined : { buffer: readDisk(path, SECTOR_BYTES[kind]) };
  };
  const v86 = {
    bios: whole(images.bios),
    vga_bios: whole(images.vgaBios),
    bzimage: kernel === undefined || kernel === multiboot ? undefined : { buffer: kernel.buffer },
    initrd: whole(images.initrd),
    hda: disk("hda"),
    fda: disk("fda"),
    cdrom: disk("cdrom"),
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

function hasLinuxHeader(image: Uint8Array): boolean {
  if (image.length < LEAST_LINUX_BYTES) return false;
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  return (
    view.getUint16(LINUX_BOOT_FLAG.at, true) === LINUX_BOOT_FLAG.value &&
    view.getUint32(LINUX_MAGIC.at, true) === LINUX_MAGIC.value
  );
}

/** A disk, with zeros behind it up to the end of its last sector. */
function readDisk(path: string, sectorBytes: number): ArrayBuffer {
  const image = readImage(path);
  if (image.length % sectorBytes === 0) return image.buffer;
  const sectors = new Uint8Array(Math.ceil(image.length / sectorBytes) * sectorBytes);
  sectors.set(image);
  return sectors.buffer;
}

/** The file, in a buffer of its own: v86 takes whole buffers, and breaks off in the middle of its start at an empty one. */
function readImage(path: string): Uint8Array<ArrayBuffer> {
  let image: Uint8Array<ArrayBuffer>;
  try {
    image = inOwnBuffer(fs.readFileSync(path));
  } catch (cause) {
    throw systemError("Reading", path, cause);
  }
  if (image.length === 0) throw new UsageError(`${path} is empty: it is no image`);
  return image;
}

/** Small files are read into a piece of a buffer that others use too: only those are copied. */
function inOwnBuffer(bytes: Buffer): Uint8Array<ArrayBuffer> {
  const { buffer } = bytes;
  const isWhole = buffer instanceof ArrayBuffer && buffer.byteLength === bytes.length;
  return new Uint8Array(isWhole ? buffer : bytes);
}
