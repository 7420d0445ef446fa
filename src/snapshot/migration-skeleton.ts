import type { RandomAccessSource } from "../channels/index.js";
import type { EarlySection, MappedRamFile, PassedSection } from "../engine/index.js";
import { FormatError } from "../errors/index.js";
import { ByteReader, ByteWriter, decodeSectionHeader, SectionType } from "../wire/index.js";
import type { StreamReading } from "./stream-parts.js";

/** Everything of a migration but its pages, as a mapped-ram file holds it: what a guest is loaded from. */
export interface MigrationSkeleton {
  /** Where the skeleton's sections and what stands behind RAM are to be read. */
  readonly file: RandomAccessSource;
  /** Where blocks have no `mapped`, their pages are somewhere else. */
  readonly skeleton: MappedRamFile;
}

/**
 * Makes a skeleton of a stream that was walked: its sections stand one behind the other in memory. Commands between the
 * parts of RAM are left out; they are the source's own steps.
 *
 * @throws FormatError `unsupported` when the stream does not say what it has to.
 */
export function skeletonOfStream(reading: StreamReading, streamOffset: number): MigrationSkeleton {
  const { head, tail, outsideRam = [], footers = true } = reading;
  const { configuration, ram, ramOffset, pageSize, passed } = head;
  if (configuration === undefined || tail === undefined || tail.undelimited !== undefined) {
    throw new FormatError(
      "unsupported",
      "This stream does not tell its machine type, or where its devices' state ends",
      { hint: "it is of a machine type before QEMU 2.4: load it as a whole, with ramport send" },
    );
  }
  const bytes = new ByteWriter();
  const keep = (piece: PassedSection): EarlySection => {
    const section = describe(piece, bytes.length);
    bytes.raw(piece.bytes);
    return section;
  };
  const kept = passed.filter((piece) => piece.bytes.length > 0);
  const beforeRam = kept.filter(({ offset }) => offset < ramOffset).map(keep);
  const betweenRam = kept.filter(({ offset }) => offset > ramOffset).map(keep);
  const ramEndOffset = bytes.length;
  const devices = outsideRam.find(({ offset }) => offset === tail.baseOffset);
  bytes.raw(devices?.bytes ?? new Uint8Array()).u8(SectionType.EOF);
  if (tail.description !== undefined) {
    const text = new TextEncoder().encode(tail.description.text);
    bytes.u8(SectionType.VMDESCRIPTION).u32(text.length).raw(text);
  }
  const totalBytes = head.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
  const skeleton: MappedRamFile = {
    streamOffset,
    configuration,
    beforeRam,
    ram,
    ramOffset,
    totalBytes,
    blocks: head.blocks.map((block) => ({ ...block, entryOffset: 0, entryLength: 0 })),
    blockListEndOffset: 0,
    pageSize,
    betweenRam,
    footers,
    ramEndOffset,
  };
  return { file: new BytesSource(bytes.finish()), skeleton };
}

function describe({ bytes, offset }: PassedSection, place: number): EarlySection {
  const reader = new ByteReader(bytes, offset);
  const type = reader.u8();
  const header = decodeSectionHeader(reader);
  return { type, offset: place, length: bytes.length, id: header.id, header };
}

/** Bytes in memory, to be read as a file is. */
class BytesSource implements RandomAccessSource {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get sizeBytes(): number {
    return this.#bytes.length;
  }

  readAt(target: Uint8Array, position: number): number {
    const part = this.#bytes.subarray(position, position + target.length);
    target.set(part);
    return part.length;
  }
}
