/**
 * Builds small precopy streams that are whole and right, for tests that then damage them.
 *
 * @module
 */

import {
  ByteWriter,
  encodeBlockListEntry,
  encodeBlockListHead,
  encodeCommand,
  encodeConfiguration,
  encodeEndOfSection,
  encodeFileHeader,
  encodeSectionFooter,
  encodeSectionHeader,
  MigrationCommand,
  RamFlag,
  SectionType,
} from "../../src/wire/index.js";

const PAGE = 4096;
const RAM_ID = 2;

/** A page of the stream, in the order of sending; `fill` 0 is sent as a zero record. */
export interface StreamPage {
  readonly block: string;
  readonly page: number;
  readonly fill: number;
}

/** What the stream is to hold; everything has a default. */
export interface StreamSpec {
  readonly machine?: string;
  readonly capabilities?: readonly string[];
  /** Name and pages of each block. */
  readonly blocks?: readonly (readonly [name: string, pages: number])[];
  readonly pages?: readonly StreamPage[];
  /** The source opens a return path, and pings unless it is to be silent. */
  readonly returnPath?: boolean | "silent";
  /** A device section in front of RAM. */
  readonly early?: boolean;
  readonly deviceBytes?: number;
}

/** A stream, and where its parts begin. */
export interface BuiltStream {
  readonly bytes: Buffer;
  readonly places: Readonly<Record<StreamPlace, number>>;
}

/** The parts of a built stream. */
export type StreamPlace =
  | "header"
  | "configuration"
  | "commands"
  | "early"
  | "ram"
  | "blockList"
  | "secondEntry"
  | "startEnd"
  | "part"
  | "firstPage"
  | "secondPage"
  | "partEnd"
  | "end"
  | "device"
  | "devicePayload"
  | "deviceFooter"
  | "eof"
  | "description"
  | "descriptionText";

/** The blocks when none are given. */
export const DEFAULT_BLOCKS = [
  ["pc.ram", 70],
  ["pc.rom", 5],
] as const;

const DEFAULT_PAGES: readonly StreamPage[] = [
  { block: "pc.ram", page: 0, fill: 0x11 },
  { block: "pc.ram", page: 1, fill: 0x22 },
  { block: "pc.ram", page: 69, fill: 0x33 },
  { block: "pc.ram", page: 2, fill: 0 },
  { block: "pc.rom", page: 4, fill: 0x44 },
];

/** Builds a stream. */
export function buildStream(spec: StreamSpec = {}): BuiltStream {
  const writer = new ByteWriter(1 << 16);
  const places: Partial<Record<StreamPlace, number>> = {};
  const mark = (place: StreamPlace): void => void (places[place] = writer.length);
  mark("header");
  encodeFileHeader(writer);
  mark("configuration");
  writer.u8(SectionType.CONFIGURATION);
  encodeConfiguration(writer, {
    machine: spec.machine ?? "pc-i440fx-10.0",
    capabilities: spec.capabilities ?? [],
  });
  mark("commands");
  if (spec.returnPath === true || spec.returnPath === "silent") {
    encodeCommand(writer, { command: MigrationCommand.OPEN_RETURN_PATH, data: new Uint8Array() });
  }
  if (spec.returnPath === true) {
    encodeCommand(writer, { command: MigrationCommand.PING, data: Uint8Array.of(0, 0, 0, 7) });
  }
  mark("early");
  if (spec.early === true) putDevice(writer, 9, "early", 24);
  putRam(writer, spec, mark);
  mark("device");
  const deviceBytes = spec.deviceBytes ?? 40;
  putDevice(writer, 3, "timer", deviceBytes, mark);
  mark("eof");
  writer.u8(SectionType.EOF);
  mark("description");
  const text = new TextEncoder().encode(JSON.stringify(describe(deviceBytes)));
  writer.u8(SectionType.VMDESCRIPTION).u32(text.length);
  mark("descriptionText");
  writer.raw(text);
  return { bytes: Buffer.from(writer.finish()), places: places as Record<StreamPlace, number> };
}

/** The content of a page of the stream: no two bytes alike in a row, so that a shift shows. */
export function pageContent(fill: number): Buffer {
  return fill === 0 ? Buffer.alloc(PAGE) : Buffer.from(COUNTING.subarray(fill & 0xff, (fill & 0xff) + PAGE));
}

const COUNTING = Uint8Array.from({ length: PAGE + 256 }, (_, index) => index & 0xff);

function putRam(writer: ByteWriter, spec: StreamSpec, mark: (place: StreamPlace) => void): void {
  const blocks = spec.blocks ?? DEFAULT_BLOCKS;
  mark("ram");
  encodeSectionHeader(writer, SectionType.START, { id: RAM_ID, name: "ram", instance: 0, version: 4 });
  mark("blockList");
  encodeBlockListHead(
    writer,
    blocks.reduce((sum, [, pages]) => sum + pages * PAGE, 0),
  );
  for (const [index, [name, pages]] of blocks.entries()) {
    if (index === 1) mark("secondEntry");
    encodeBlockListEntry(writer, { name, usedLength: pages * PAGE });
  }
  mark("startEnd");
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, RAM_ID);
  mark("part");
  writer.u8(SectionType.PART).u32(RAM_ID);
  let last: string | undefined;
  for (const [index, { block, page, fill }] of (spec.pages ?? DEFAULT_PAGES).entries()) {
    if (index === 0) mark("firstPage");
    if (index === 1) mark("secondPage");
    const flags = (fill === 0 ? RamFlag.ZERO : RamFlag.PAGE) | (block === last ? RamFlag.CONTINUE : 0);
    writer.u64(page * PAGE + flags);
    if (block !== last) writer.idstr(block);
    if (fill === 0) writer.u8(0);
    else writer.raw(pageContent(fill));
    last = block;
  }
  mark("partEnd");
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, RAM_ID);
  mark("end");
  writer.u8(SectionType.END).u32(RAM_ID);
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, RAM_ID);
}

function putDevice(
  writer: ByteWriter,
  id: number,
  name: string,
  payloadBytes: number,
  mark?: (place: StreamPlace) => void,
): void {
  encodeSectionHeader(writer, SectionType.FULL, { id, name, instance: 0, version: 1 });
  mark?.("devicePayload");
  writer.raw(Uint8Array.from({ length: payloadBytes }, (_, index) => index & 0x3f));
  mark?.("deviceFooter");
  encodeSectionFooter(writer, id);
}

function describe(deviceBytes: number): object {
  const fields = [{ name: "state", type: "buffer", size: deviceBytes }];
  return {
    page_size: PAGE,
    devices: [{ name: "timer", instance_id: 0, vmsd_name: "timer", version: 1, fields }],
  };
}
