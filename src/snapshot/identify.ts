import type { Compression, RandomAccessSource } from "../channels/index.js";
import { MAPPED_RAM_CAPABILITY } from "../engine/mapped-ram/capability.js";
import { FileCursor } from "../engine/mapped-ram/file-cursor.js";
import { FormatError } from "../errors/index.js";
import {
  afterType,
  type Configuration,
  decodeConfiguration,
  type DecodedLibvirtSaveHeader,
  decodeFileHeader,
  decodeLibvirtSaveHeader,
  isLibvirtSaveImage,
  QEMU_VM_FILE_MAGIC,
  SectionType,
} from "../wire/index.js";
import type { LibvirtImage, SnapshotContainer, SnapshotFormat } from "./snapshot.js";

/** What a snapshot file is, by its first bytes. */
export interface SnapshotIdentity {
  readonly container: SnapshotContainer;
  readonly format: SnapshotFormat;
  /** Where the migration stream, packed or not, starts in the file. */
  readonly streamOffset: number;
  /** Absent in streams of machine types of QEMU 2.3 and older, and in what is compressed. */
  readonly configuration?: Configuration;
  readonly libvirt?: LibvirtImage;
  /** How the stream is packed. */
  readonly compression?: Compression;
}

const LONGEST_MAGIC_BYTES = 16;

/**
 * Looks at the bytes at `offset` and says what begins there.
 *
 * @throws FormatError `malformed` when it is no snapshot, `truncated` when the file ends first, and what the headers'
 *   decoders throw.
 */
export function identifySnapshot(source: RandomAccessSource, offset: number): SnapshotIdentity {
  const cursor = new FileCursor(source, offset);
  const magic = cursor.read(offset, LONGEST_MAGIC_BYTES);
  if (!isLibvirtSaveImage(magic)) return { container: "qemu", ...identifyStream(source, offset) };
  const header = cursor.parse(decodeLibvirtSaveHeader);
  const libvirt = describeLibvirt(header);
  const { format, streamOffset } = header;
  if (format === "raw" || format === "sparse") {
    return { container: "libvirt", libvirt, ...identifyStream(source, streamOffset) };
  }
  return { container: "libvirt", format: "stream", streamOffset, libvirt, compression: format };
}

function identifyStream(
  source: RandomAccessSource,
  streamOffset: number,
): Pick<SnapshotIdentity, "format" | "streamOffset" | "configuration"> {
  const cursor = new FileCursor(source, streamOffset);
  checkMagic(cursor.read(streamOffset, 4), source.sizeBytes, streamOffset);
  cursor.parse(decodeFileHeader);
  if (cursor.peek() !== SectionType.CONFIGURATION) return { format: "stream", streamOffset };
  const configuration = cursor.parse((reader) => decodeConfiguration(afterType(reader)));
  const format = configuration.capabilities.includes(MAPPED_RAM_CAPABILITY) ? "mapped-ram" : "stream";
  return { format, streamOffset, configuration };
}

function describeLibvirt(header: DecodedLibvirtSaveHeader): LibvirtImage {
  const { format, domainName, wasRunning, complete, xml, cookie } = header;
  return {
    format,
    wasRunning,
    finished: complete,
    xml,
    ...(domainName === undefined ? {} : { domain: domainName }),
    ...(cookie === undefined ? {} : { cookie }),
  };
}

function checkMagic(magic: Uint8Array, sizeBytes: number, offset: number): void {
  if (magic.length < 4) {
    throw new FormatError("truncated", "The file has no bytes where the snapshot should start", {
      offset,
      expected: "4 bytes or more",
      actual: `${Math.max(0, sizeBytes - offset)} bytes`,
    });
  }
  const value = new DataView(magic.buffer, magic.byteOffset).getUint32(0);
  if (value === QEMU_VM_FILE_MAGIC) return;
  throw new FormatError("malformed", "This is neither a QEMU migration stream nor a libvirt save image", {
    offset,
    expected: `magic 0x${QEMU_VM_FILE_MAGIC.toString(16)}`,
    actual: `0x${value.toString(16).padStart(8, "0")}`,
    ...(offset === 0 ? { hint: "if the snapshot starts later in the file, give its offset" } : {}),
  });
}
