import { expect, test } from "vitest";

import { PageIndex } from "../../../src/engine/incoming/page-index.js";
import { receiveMigration } from "../../../src/engine/incoming/receive.js";
import { StreamFacts } from "../../../src/engine/incoming/stream-facts.js";
import {
  ByteWriter,
  encodeBlockListEntry,
  encodeBlockListHead,
  encodeEndOfSection,
  encodeFileHeader,
  encodeSectionHeader,
  HTAB_SECTION_NAME,
  RamFlag,
  SectionType,
} from "../../../src/wire/index.js";
import { sourceOf } from "../../support/byte-channels.js";

const RAM = { id: 2, name: "ram", instance: 0, version: 4 };
const HTAB = { id: 23, name: HTAB_SECTION_NAME, instance: 0, version: 1 };
const TIMER = { id: 0, name: "timer", instance: 0, version: 2 };
const DESCRIPTION = JSON.stringify({
  page_size: 4096,
  devices: [
    {
      ...{ name: "timer", instance_id: 0, vmsd_name: "timer", version: 2 },
      fields: [{ name: "ticks", type: "int64", size: 8 }],
    },
  ],
});

/** Part of the table: chunks of valid entries, full of bytes that look like the start of something else. */
function htabPart(writer: ByteWriter, type: number, chunks: readonly number[]): void {
  writer.u8(type).u32(HTAB.id).u32(0);
  for (const [index, valid] of chunks.entries()) {
    writer
      .u32(index * 1000)
      .u16(valid)
      .u16(3)
      .raw(new Uint8Array(valid * 16).fill(SectionType.PART));
  }
  writer.u32(0).u16(0).u16(0);
}

/** As QEMU 7.2 sends a guest of type pseries-2.3: no configuration, no footers. */
function pseriesStream(): Uint8Array {
  const writer = new ByteWriter();
  encodeFileHeader(writer);
  encodeSectionHeader(writer, SectionType.START, RAM);
  encodeBlockListHead(writer, 4096);
  encodeBlockListEntry(writer, { name: "ppc_spapr.ram", usedLength: 4096 });
  encodeEndOfSection(writer);
  encodeSectionHeader(writer, SectionType.START, HTAB);
  writer.u32(21);
  writer.u8(SectionType.PART).u32(RAM.id);
  writer.u64(RamFlag.ZERO).u8(13).raw(new TextEncoder().encode("ppc_spapr.ram")).u8(0);
  encodeEndOfSection(writer);
  htabPart(writer, SectionType.PART, [1, 2000, 0, 7]);
  writer.u8(SectionType.END).u32(RAM.id);
  encodeEndOfSection(writer);
  htabPart(writer, SectionType.END, [5]);
  encodeSectionHeader(writer, SectionType.FULL, TIMER);
  writer.u64(5).u8(SectionType.EOF).u8(SectionType.VMDESCRIPTION);
  const text = new TextEncoder().encode(DESCRIPTION);
  return writer.u32(text.length).raw(text).finish();
}

test.each([1, 7, 1000, 1 << 20])(
  "a hash page table without footers ends where its chunks do, in pieces of %i bytes",
  async (pieceBytes) => {
    const facts = new StreamFacts(new PageIndex());
    await receiveMigration(sourceOf(pseriesStream(), pieceBytes), facts);
    expect(facts.head?.passed.map(({ length }) => length)).toEqual([28, 9 + 4 * 8 + 2008 * 16 + 8]);
    expect(facts.streamTail?.undelimited).toBeUndefined();
    expect(facts.streamTail?.sections).toMatchObject([{ name: "timer", payloadLength: 8 }]);
    expect(facts.streamTail?.laterParts).toMatchObject([{ id: HTAB.id, length: 9 + 8 + 5 * 16 + 8 }]);
  },
);

test("a table that is cut off says so", async () => {
  const stream = pseriesStream();
  const facts = new StreamFacts(new PageIndex());
  const cut = sourceOf(stream.subarray(0, 5000), 100);
  await expect(receiveMigration(cut, facts)).rejects.toMatchObject({ code: "truncated" });
});
