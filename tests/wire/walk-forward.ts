import {
  type BlockListDialect,
  BlockListBuilder,
  ByteReader,
  decodeBlockListEntry,
  decodeBlockListHead,
  decodeCommand,
  decodeConfiguration,
  decodeFileHeader,
  decodeMappedRamHeader,
  decodeSectionFooter,
  decodeSectionHeader,
  MigrationCommand,
  RamRecordDecoder,
  type RamRecordSink,
  SECTION_FOOTER_BYTES,
  searchSectionFooter,
  SectionType,
} from "../../src/wire/index.js";

const ignore = (): void => undefined;
const sink: RamRecordSink = { page: ignore, zeroPage: ignore, xbzrlePage: ignore, compressedPage: ignore };

/**
 * Walks a stream from its start to the end of its RAM section, page by page: what searching from the end saves.
 *
 * @returns The offset behind the RAM section, and its id.
 */
export function walkToRamEnd(
  bytes: Uint8Array,
  streamOffset: number,
  pageSize: number,
): { readonly ramEnd: number; readonly ramId: number } {
  const reader = new ByteReader(bytes);
  reader.position = streamOffset;
  decodeFileHeader(reader);
  let capabilities: readonly string[] = [];
  let dialect: BlockListDialect = { ignoreShared: false, postcopyPageSizes: 0 };
  let ram: { id: number; decoder: RamRecordDecoder; end: number } | undefined;
  const skipForeign = (id: number): void => {
    const footer = searchSectionFooter(bytes, reader.position, id);
    if (footer < 0) throw new Error(`section ${id} at ${reader.offset} has no end`);
    reader.position = footer + SECTION_FOOTER_BYTES;
  };
  while (true) {
    const type = reader.u8();
    // A background snapshot's RAM section has no END: its last PART is the end. A FULL tells nothing: virtio-mem's early
    // state stands between the parts.
    if (ram !== undefined && type === SectionType.EOF) return { ramEnd: ram.end, ramId: ram.id };
    if (type === SectionType.CONFIGURATION) {
      ({ capabilities } = decodeConfiguration(reader));
      dialect = { ...dialect, ignoreShared: capabilities.includes("x-ignore-shared") };
    } else if (type === SectionType.COMMAND) {
      const { command, data } = decodeCommand(reader);
      if (command === MigrationCommand.POSTCOPY_ADVISE && data.length === 16) {
        dialect = { ...dialect, postcopyPageSizes: new ByteReader(data).u64Number("page sizes") };
      }
    } else {
      const isStart = type === SectionType.START || type === SectionType.FULL;
      const header = isStart ? decodeSectionHeader(reader) : { id: reader.u32(), name: "" };
      if (header.name === "ram") {
        const blocks = readBlocks(reader, dialect, capabilities.includes("mapped-ram"));
        ram = { id: header.id, decoder: new RamRecordDecoder(blocks, pageSize, sink), end: 0 };
      }
      if (ram?.id !== header.id) {
        skipForeign(header.id);
        continue;
      }
      reader.position = ram.decoder.decode(bytes, reader.position, bytes.length, 0);
      if (ram.decoder.stop !== "end-of-section") throw new Error("the RAM section has no end");
      decodeSectionFooter(reader, header);
      ram.end = reader.position;
      if (type === SectionType.END) return { ramEnd: ram.end, ramId: ram.id };
    }
  }
}

function readBlocks(
  reader: ByteReader,
  dialect: BlockListDialect,
  isMapped: boolean,
): { name: string; usedLength: number }[] {
  const list = new BlockListBuilder(decodeBlockListHead(reader));
  while (!list.complete) {
    const { offset } = reader;
    const entry = decodeBlockListEntry(reader, dialect);
    list.add(entry, offset);
    if (!isMapped) continue;
    const { pagesOffset } = decodeMappedRamHeader(reader);
    if (pagesOffset !== 0) reader.position = pagesOffset + entry.usedLength;
  }
  return list.blocks;
}
