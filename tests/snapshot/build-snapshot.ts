import type { PositionedFile } from "../../src/engine/index.js";
import { MappedRamWriter } from "../../src/engine/index.js";
import {
  ByteWriter,
  decodeStreamTail,
  encodeSectionFooter,
  encodeSectionHeader,
  SectionType,
} from "../../src/wire/index.js";

/** A file in memory. */
export class MemorySource implements PositionedFile {
  #bytes: Uint8Array;

  constructor(bytes: Uint8Array = new Uint8Array()) {
    this.#bytes = bytes;
  }

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get sizeBytes(): number {
    return this.#bytes.length;
  }

  readAt(target: Uint8Array, position: number): number {
    const part = this.#bytes.subarray(position, position + target.length);
    target.set(part);
    return part.length;
  }

  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    this.#reach(position + length);
    this.#bytes.set(bytes.subarray(at, at + length), position);
  }

  zeroAt(position: number, length: number): void {
    this.#reach(position + length);
    this.#bytes.fill(0, position, position + length);
  }

  #reach(length: number): void {
    if (length <= this.#bytes.length) return;
    const larger = new Uint8Array(length);
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}

/** What a built block holds. */
export interface BuiltBlock {
  readonly name: string;
  readonly memory: Uint8Array;
  /** Pages with content. */
  readonly present: ReadonlySet<number>;
}

const PAGE = 4096;

/** A device: its payload's bytes, and whether the description says how many. */
interface BuiltDevice {
  readonly name: string;
  readonly instance: number;
  readonly version: number;
  readonly payload: Uint8Array;
  readonly described: boolean;
}

const DEVICES: readonly BuiltDevice[] = [
  { name: "cpu", instance: 0, version: 12, payload: new Uint8Array(300).fill(0x7e), described: true },
  { name: "cpu", instance: 1, version: 12, payload: new Uint8Array(300).fill(0x01), described: true },
  { name: "old-device", instance: 0, version: 3, payload: new Uint8Array(17).fill(9), described: false },
];

/** Device sections, EOF and description, in QEMU's layout. */
export function buildTail(devices: readonly BuiltDevice[] = DEVICES): Uint8Array {
  const writer = new ByteWriter();
  for (const [index, { name, instance, version, payload }] of devices.entries()) {
    encodeSectionHeader(writer, SectionType.FULL, { id: index + 2, name, instance, version });
    writer.raw(payload);
    encodeSectionFooter(writer, index + 2);
  }
  const described = devices.map(({ name, instance, version, payload, described }) => ({
    name,
    instance_id: instance,
    ...(described
      ? { vmsd_name: name, version, fields: [{ name: "all", type: "buffer", size: payload.length }] }
      : {}),
  }));
  const text = new TextEncoder().encode(JSON.stringify({ page_size: PAGE, devices: described }));
  return writer.u8(SectionType.EOF).u8(SectionType.VMDESCRIPTION).u32(text.length).raw(text).finish().slice();
}

/** A small guest's snapshot, made by ramport's own writer: two blocks, three devices. */
export function buildSnapshot(offset = 0): {
  readonly bytes: Uint8Array;
  readonly blocks: readonly BuiltBlock[];
} {
  const blocks = [buildBlock("pc.ram", 130, [0, 1, 2, 63, 64, 100, 129]), buildBlock("rom", 3, [1])];
  const file = new MemorySource();
  const writer = new MappedRamWriter(offset === 0 ? file : shifted(file, offset));
  writer.configuration({
    machine: "test-1.0",
    capabilities: [],
    uuid: Uint8Array.from({ length: 16 }, (_, index) => index),
  });
  const entries = blocks.map(({ name, memory }) => ({ name, usedLength: memory.length }));
  const sink = writer.ramStart({ id: 1, name: "ram", instance: 0, version: 4 }, entries, PAGE);
  writer.ramSectionEnd(SectionType.START, true);
  for (const [index, { memory, present }] of blocks.entries()) {
    for (const page of present) sink.page(index, page * PAGE, memory, page * PAGE);
  }
  writer.ramSectionEnd(SectionType.END, true);
  const tail = buildTail();
  writer.tail(decodeStreamTail(tail, 0), tail);
  if (offset > 0) shiftHeaders(file.bytes, offset, entries);
  return { bytes: file.bytes, blocks };
}

function buildBlock(name: string, pages: number, present: readonly number[]): BuiltBlock {
  const memory = new Uint8Array(pages * PAGE);
  for (const page of present) memory.fill(page + 1, page * PAGE, (page + 1) * PAGE);
  return { name, memory, present: new Set(present) };
}

/** The writer begins at 0: it is given a file that begins later. */
function shifted(file: MemorySource, offset: number): PositionedFile {
  return {
    get sizeBytes() {
      return Math.max(0, file.sizeBytes - offset);
    },
    readAt: (target, position) => file.readAt(target, position + offset),
    writeAt: (bytes, at, length, position) => {
      file.writeAt(bytes, at, length, position + offset);
    },
    zeroAt: (position, length) => {
      file.zeroAt(position + offset, length);
    },
  };
}

/** Offsets in mapped-ram headers are absolute: moves them by as much as the file was moved. */
function shiftHeaders(
  bytes: Uint8Array,
  offset: number,
  entries: readonly { readonly name: string; readonly usedLength: number }[],
): void {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let from = 0;
  for (const { name, usedLength } of entries) {
    const entry = new ByteWriter().idstr(name).u64(usedLength).finish();
    const header = buffer.indexOf(entry, from) + entry.length;
    for (const field of [header + 12, header + 20]) {
      buffer.writeBigUInt64BE(buffer.readBigUInt64BE(field) + BigInt(offset), field);
    }
    from = header;
  }
}
