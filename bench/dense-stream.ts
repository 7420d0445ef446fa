import { randomFillSync } from "node:crypto";
import { closeSync, openSync, writeSync } from "node:fs";

import { ReadableFile } from "../src/channels/file.js";
import { RangeSource } from "../src/channels/range-source.js";
import { readMigrationHead } from "../src/engine/incoming/receive.js";
import type { StreamHead } from "../src/engine/incoming/stream-facts.js";
import {
  ByteWriter,
  encodeBlockListEntry,
  encodeBlockListHead,
  encodeEndOfSection,
  encodeSectionFooter,
  encodeSectionHeader,
  RamFlag,
  ramRecordHeadBytes,
  searchStreamTail,
  SectionType,
  writeRamRecordHead,
} from "../src/wire/index.js";

/** How a bench file is written: larger writes are slower on ext4. */
const WRITE_BYTES = 256 << 10;

/**
 * Writes the stream that a guest's stream would be if each page of its RAM had content: what is around the pages stays, and
 * every page of every block is a page record. Filling the memory of a real guest beyond 3 GiB is more than the guest's
 * program can do, and would take minutes.
 */
export async function writeDenseStream(input: string, output: string): Promise<void> {
  const source = ReadableFile.open(input);
  try {
    const head = await readMigrationHead(new RangeSource(source, 0));
    const read = (position: number, length: number): Uint8Array => {
      const bytes = new Uint8Array(length);
      return bytes.subarray(0, source.readAt(bytes, position));
    };
    const tail = searchStreamTail(read, source.sizeBytes, { ramSectionId: head.ram.id });
    if (tail === undefined) throw new Error("the stream's end cannot be found without walking it");
    const fd = openSync(output, "wx");
    try {
      writeSync(fd, read(0, head.ramOffset));
      writeSync(fd, startOfRam(head));
      writePages(fd, head);
      writeSync(fd, endOfRam(head));
      writeSync(fd, read(tail.baseOffset, source.sizeBytes - tail.baseOffset));
    } finally {
      closeSync(fd);
    }
  } finally {
    source.close();
  }
}

/** The first part of the RAM section, and the head of the one with the pages. */
function startOfRam({ ram, blocks }: StreamHead): Uint8Array {
  const writer = new ByteWriter();
  encodeSectionHeader(writer, SectionType.START, ram);
  encodeBlockListHead(
    writer,
    blocks.reduce((sum, { usedLength }) => sum + usedLength, 0),
  );
  for (const { name, usedLength } of blocks) encodeBlockListEntry(writer, { name, usedLength });
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, ram.id);
  return writer.u8(SectionType.PART).u32(ram.id).finish();
}

function writePages(fd: number, { blocks, pageSize }: StreamHead): void {
  const content = new Uint8Array(pageSize);
  randomFillSync(content);
  const staging = new Uint8Array(WRITE_BYTES);
  const view = new DataView(staging.buffer);
  let staged = 0;
  for (const { name, usedLength } of blocks) {
    let blockName: Uint8Array | undefined = new TextEncoder().encode(name);
    for (let address = 0; address < usedLength; address += pageSize) {
      if (staged + ramRecordHeadBytes(blockName) + pageSize > WRITE_BYTES) {
        writeSync(fd, staging, 0, staged);
        staged = 0;
      }
      staged = writeRamRecordHead(view, staged, address, RamFlag.PAGE, blockName);
      staging.set(content, staged);
      staged += pageSize;
      blockName = undefined;
    }
  }
  writeSync(fd, staging, 0, staged);
}

function endOfRam({ ram }: StreamHead): Uint8Array {
  const writer = new ByteWriter();
  for (const next of [true, false]) {
    encodeEndOfSection(writer);
    encodeSectionFooter(writer, ram.id);
    if (next) writer.u8(SectionType.END).u32(ram.id);
  }
  return writer.finish();
}
