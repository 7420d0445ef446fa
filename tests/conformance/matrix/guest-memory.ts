/**
 * A guest's memory as its QEMU's monitor gives it out, to hold files against that came another way. ramport takes no part.
 *
 * @module
 */

import { readFileSync, rmSync } from "node:fs";

import { ReadableFile } from "../../../src/channels/index.js";
import { openMappedRam, readMappedRamTail, readPageBitmap } from "../../../src/engine/index.js";
import { GUEST_MEMORY_BYTES } from "../../support/migrating-guest.js";
import type { QemuMachine } from "../../support/qemu.js";

/** Part of a RAM block, and where the guest sees it. Bytes. */
export interface MemoryRange {
  readonly block: string;
  readonly offset: number;
  readonly address: number;
  readonly length: number;
}

/** Memory by its range. */
export type GuestMemory = readonly { readonly range: MemoryRange; readonly bytes: Buffer }[];

const PAGE = 4096;

/** A PC's memory but for the hole below 1 MiB, where ROMs lie over it, and its display card's. */
export async function memoryRanges(machine: QemuMachine): Promise<readonly MemoryRange[]> {
  const buses = (await machine.qmp("query-pci")) as {
    devices: {
      qdev_id: string;
      class_info: { class: number };
      regions: { address: number; size: number }[];
    }[];
  }[];
  const display = buses
    .flatMap(({ devices }) => devices)
    .find(({ class_info: info }) => info.class === 0x300);
  const vram = display?.regions[0];
  if (vram === undefined) throw new Error("the machine has no display card");
  return [
    { block: "pc.ram", offset: 0, address: 0, length: 0xa0000 },
    { block: "pc.ram", offset: 0x100000, address: 0x100000, length: GUEST_MEMORY_BYTES - 0x100000 },
    { block: "0000:00:02.0/vga.vram", offset: 0, address: vram.address, length: vram.size },
  ];
}

/** Reads a guest that stands still. `scratch` is a file that is not there before and after. */
export async function readGuestMemory(
  machine: QemuMachine,
  ranges: readonly MemoryRange[],
  scratch: string,
): Promise<GuestMemory> {
  const memory: { range: MemoryRange; bytes: Buffer }[] = [];
  for (const range of ranges) {
    await machine.qmp("pmemsave", { val: range.address, size: range.length, filename: scratch });
    const bytes = readFileSync(scratch);
    rmSync(scratch);
    if (bytes.length !== range.length) throw new Error(`QEMU wrote ${bytes.length} bytes of ${range.block}`);
    memory.push({ range, bytes });
  }
  return memory;
}

/** The same ranges out of a mapped-ram file, as a loader sees them: zeros under clear bits. */
export function readFileMemory(path: string, ranges: readonly MemoryRange[]): GuestMemory {
  const file = ReadableFile.open(path);
  try {
    const skeleton = openMappedRam(file);
    readMappedRamTail(file, skeleton);
    return ranges.map((range) => {
      const block = skeleton.blocks.find(({ name }) => name === range.block);
      if (block?.mapped === undefined) throw new Error(`the file has no pages of ${range.block}`);
      const bitmap = readPageBitmap(file, block);
      const bytes = Buffer.alloc(range.length);
      file.readAt(bytes, block.mapped.pagesOffset + range.offset);
      for (let at = 0; at < bytes.length; at += PAGE) {
        if (!bitmap.has((range.offset + at) / PAGE)) bytes.fill(0, at, at + PAGE);
      }
      return { range, bytes };
    });
  } finally {
    file.close();
  }
}

/** Where two memories differ, in words; undefined when they are the same. */
export function differenceOf(actual: GuestMemory, expected: GuestMemory): string | undefined {
  const different: string[] = [];
  let first: string | undefined;
  for (const [index, { range, bytes }] of expected.entries()) {
    const others = actual[index]!.bytes;
    if (others.equals(bytes)) continue;
    for (let at = 0; at < bytes.length; at += PAGE) {
      if (others.subarray(at, at + PAGE).equals(bytes.subarray(at, at + PAGE))) continue;
      const page = `${range.block} at ${(range.offset + at).toString(16)}`;
      first ??= page;
      different.push(page);
    }
  }
  return first === undefined ? undefined : `${different.length} pages differ, the first in ${first}`;
}
