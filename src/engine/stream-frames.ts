import {
  type ByteWriter,
  type Configuration,
  describeCapabilities,
  encodeBlockListEntry,
  encodeBlockListHead,
  encodeConfiguration,
  encodeEndOfSection,
  encodeFileHeader,
  encodeSectionFooter,
  encodeSectionHeader,
  type RamBlockEntry,
  type SectionHeader,
  SectionType,
  type StreamTail,
} from "../wire/index.js";

/** What a stream begins with: magic, version and, but for machine types of QEMU 2.3 and older, its configuration. */
export function encodeStreamHead(writer: ByteWriter, configuration: Configuration | undefined): void {
  encodeFileHeader(writer);
  if (configuration === undefined) return;
  writer.u8(SectionType.CONFIGURATION);
  encodeConfiguration(writer, configuration);
}

/** The START of the RAM section with its list of blocks, up to where records, or its end, may follow. */
export function encodeRamStart(
  writer: ByteWriter,
  header: SectionHeader,
  blocks: readonly RamBlockEntry[],
): void {
  encodeSectionHeader(writer, SectionType.START, header);
  encodeBlockListHead(
    writer,
    blocks.reduce((sum, { usedLength }) => sum + usedLength, 0),
  );
  for (const block of blocks) encodeBlockListEntry(writer, block);
}

/** What a part of the RAM section ends with. */
export function encodeRamPartEnd(writer: ByteWriter, ramId: number, footer: boolean): void {
  encodeEndOfSection(writer);
  if (footer) encodeSectionFooter(writer, ramId);
}

/**
 * A stream's end for a migration with other capabilities: device sections and EOF stay as they are, and the description
 * names the new ones.
 *
 * @param bytes All of the tail that `tail` was decoded from.
 */
export function endOfStream(
  { tail, bytes }: { readonly tail: StreamTail; readonly bytes: Uint8Array },
  capabilities: readonly string[],
  writer: ByteWriter,
): readonly Uint8Array[] {
  const devices = bytes.subarray(0, tail.eofOffset + 1 - tail.baseOffset);
  if (tail.description === undefined) return [devices];
  const text = new TextEncoder().encode(describeCapabilities(tail.description.text, capabilities));
  return [devices, writer.clear().u8(SectionType.VMDESCRIPTION).u32(text.length).raw(text).finish()];
}
