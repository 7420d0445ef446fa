/**
 * A destination of tests: reads what came over the connections of a multifd migration, after it has come.
 *
 * @module
 */

import { createHash } from "node:crypto";

import { createPacketDecompressor } from "../../../src/engine/multifd/compression/create-packet-compression.js";
import {
  ByteReader,
  decodeBlockListEntry,
  decodeBlockListHead,
  decodeCommand,
  decodeConfiguration,
  decodeFileHeader,
  decodeMultifdHello,
  decodeMultifdPacket,
  decodeMultifdPlaces,
  decodeSectionFooter,
  decodeSectionHeader,
  MULTIFD_HELLO_BYTES,
  type MultifdHello,
  multifdPacketHeadBytes,
  multifdPagesPerPacket,
  RAM_SECTION,
  RamFlag,
  SectionType,
} from "../../../src/wire/index.js";

const PAGE = 4096;

/** A page, named `block:place`, and the {@link digest} of what it holds. */
export type ReceivedPages = Map<string, string>;

/** Short, for tests compare thousands. */
export function digest(page: Uint8Array): string {
  return createHash("sha1").update(page).digest("base64");
}

/** What came over one extra connection. */
export interface ReceivedChannel {
  readonly hello: MultifdHello;
  /** For each packet how many pages it has, and `sync`. */
  readonly packets: readonly (number | "sync")[];
  readonly packetNumbers: readonly number[];
}

/** Reads an extra connection; its pages go into `pages`, where none may be yet. */
export async function readChannel(bytes: Buffer, pages: ReceivedPages): Promise<ReceivedChannel> {
  const hello = decodeMultifdHello(bytes.subarray(0, MULTIFD_HELLO_BYTES));
  const headBytes = multifdPacketHeadBytes(PAGE);
  const packets: (number | "sync")[] = [];
  const packetNumbers: number[] = [];
  let decompressor: ReturnType<typeof createPacketDecompressor> | undefined;
  for (let at = MULTIFD_HELLO_BYTES; at < bytes.length;) {
    const head = bytes.subarray(at, at + headBytes);
    const packet = decodeMultifdPacket(head, PAGE, at);
    const places = new Float64Array(multifdPagesPerPacket(PAGE));
    decodeMultifdPlaces(head, packet, { usedLength: 2 ** 40, pageSize: PAGE }, places);
    const payload = bytes.subarray(at + headBytes, at + headBytes + packet.payloadBytes);
    let content = payload;
    if (packet.compression !== "none" && packet.normalPages > 0) {
      decompressor ??= createPacketDecompressor(packet.compression);
      content = Buffer.alloc(packet.normalPages * PAGE);
      await decompressor.decompress(payload, content);
    }
    for (let index = 0; index < packet.normalPages; index++) {
      const name = `${packet.block}:${places[index]}`;
      if (pages.has(name)) throw new Error(`${name} came twice`);
      pages.set(name, digest(content.subarray(index * PAGE, (index + 1) * PAGE)));
    }
    packets.push(packet.sync ? "sync" : packet.normalPages);
    packetNumbers.push(packet.packetNumber);
    at += headBytes + packet.payloadBytes;
  }
  decompressor?.close();
  return { hello, packets, packetNumbers };
}

/** What stands in the main connection: sections and records by their names, zero records as `zero`, once for many. */
export function readMain(bytes: Buffer, pages: ReceivedPages): readonly string[] {
  const reader = new ByteReader(bytes);
  const events: string[] = [];
  decodeFileHeader(reader);
  reader.u8();
  decodeConfiguration(reader);
  for (;;) {
    const type = reader.u8();
    if (type === SectionType.COMMAND) decodeCommand(reader);
    else if (type === SectionType.START) {
      decodeSectionHeader(reader);
      events.push("START");
      for (let total = decodeBlockListHead(reader); total > 0;) {
        total -= decodeBlockListEntry(reader, { postcopyPageSizes: 0, ignoreShared: false }).usedLength;
      }
      readRecords(reader, events, pages);
    } else if (type === SectionType.PART || type === SectionType.END) {
      reader.u32();
      events.push(type === SectionType.PART ? "PART" : "END");
      readRecords(reader, events, pages);
    } else return events;
  }
}

function readRecords(reader: ByteReader, events: string[], pages: ReceivedPages): void {
  let block = "";
  for (;;) {
    const value = reader.u64Number("record");
    const flags = value % PAGE;
    if (flags === RamFlag.MULTIFD_FLUSH) events.push("FLUSH");
    else if (flags === RamFlag.EOS) {
      decodeSectionFooter(reader, { id: 2, name: RAM_SECTION.name });
      return;
    } else if ((flags & RamFlag.ZERO) !== 0) {
      if ((flags & RamFlag.CONTINUE) === 0) block = reader.idstr("block");
      reader.u8();
      const name = `${block}:${value - flags}`;
      if (pages.has(name)) throw new Error(`${name} came twice`);
      pages.set(name, digest(Buffer.alloc(PAGE)));
      if (events.at(-1) !== "zero") events.push("zero");
    } else throw new Error(`a record with flags ${flags}`);
  }
}
