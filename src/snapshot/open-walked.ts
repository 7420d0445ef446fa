import type { ByteSource, RandomAccessSource } from "../channels/byte-stream.js";
import { openCompressed } from "../channels/decompress.js";
import { OutputFile } from "../channels/output-file.js";
import { RangeSource } from "../channels/range-source.js";
import { PageIndex, UnindexableError } from "../engine/incoming/page-index.js";
import type { SnapshotIdentity } from "./identify.js";
import { KeptPieces } from "./inspect-payload.js";
import { readMappedRam } from "./mapped-ram-reading.js";
import { MappedRamSnapshot } from "./mapped-ram-snapshot.js";
import type { Snapshot } from "./snapshot.js";
import { walkStream, type WalkOptions } from "./stream-reading.js";
import { ScratchPages } from "./stream-scratch.js";
import type { StreamReading } from "./stream-parts.js";
import { StreamSnapshot } from "./stream-snapshot.js";
import { UnpackedSnapshot } from "./unpacked-snapshot.js";

/** What `openSnapshot` is asked for. */
interface OpenWalkedOptions extends WalkOptions {
  readonly pages?: boolean;
  readonly scratchFolder?: string;
}

/**
 * Opens a stream that has to be read from front to back: to note where its pages are, or because it is compressed.
 *
 * @throws FormatError; MachineError; CancelledError.
 */
export async function openWalked(
  source: RandomAccessSource,
  identity: SnapshotIdentity,
  options: OpenWalkedOptions,
  close: () => void,
): Promise<Snapshot> {
  const { streamOffset, libvirt, compression } = identity;
  const withLibvirt = (reading: StreamReading): StreamReading =>
    libvirt === undefined ? reading : { ...reading, libvirt };
  if (compression !== undefined) {
    const unpack = (): ByteSource => openCompressed(source, streamOffset, compression);
    if (options.pages !== false) return openUnpacked(source, unpack, 0, identity, options, close);
    const reading = await walkStream(unpack(), 0, new PageIndex(), options);
    const payloads = new KeptPieces(reading.outsideRam ?? []);
    return new StreamSnapshot(source, streamOffset, withLibvirt(reading), undefined, close, payloads);
  }
  const open = (): ByteSource => new RangeSource(source, streamOffset);
  try {
    const index = new PageIndex();
    const reading = await walkStream(open(), streamOffset, index, options);
    return new StreamSnapshot(source, streamOffset, withLibvirt(reading), index, close);
  } catch (error) {
    if (!(error instanceof UnindexableError)) throw error;
    return await openUnpacked(source, open, streamOffset, identity, options, close);
  }
}

/** Puts a stream's pages into a scratch file, where they can be read at any place. */
async function openUnpacked(
  source: RandomAccessSource,
  unpack: () => ByteSource,
  startOffset: number,
  identity: SnapshotIdentity,
  options: OpenWalkedOptions,
  close: () => void,
): Promise<Snapshot> {
  const scratch = OutputFile.scratch(options.scratchFolder);
  try {
    const reading = await walkStream(unpack(), startOffset, new ScratchPages(scratch), options);
    const inner = new MappedRamSnapshot(scratch, readMappedRam(scratch, 0, "nothing"), () =>
      scratch.discard(),
    );
    return new UnpackedSnapshot(source, identity, reading, inner, close);
  } catch (error) {
    scratch.discard();
    throw error;
  }
}
