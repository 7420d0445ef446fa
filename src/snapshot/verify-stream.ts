import type { RandomAccessSource } from "../channels/byte-stream.js";
import { openCompressed } from "../channels/decompress.js";
import { RangeSource } from "../channels/range-source.js";
import { PageIndex, type PagePlaces } from "../engine/incoming/page-index.js";
import type { ProgressListener } from "../engine/progress.js";
import type { FormatError } from "../errors/index.js";
import { compareDescription } from "./description-agreement.js";
import type { SnapshotIdentity } from "./identify.js";
import { peekStream, walkStream } from "./stream-reading.js";
import type { StreamReading } from "./stream-parts.js";
import type { VerifiedBlock } from "./verify-result.js";

/** A stream that was walked to its end. */
export interface WalkedStream {
  readonly reading: StreamReading;
  readonly blocks: readonly VerifiedBlock[];
}

/**
 * Walks a whole stream, whatever it is packed with, and counts its pages.
 *
 * @throws FormatError at the first thing that is wrong: a stream cannot be followed behind it.
 */
export async function walkForVerify(
  source: RandomAccessSource,
  identity: SnapshotIdentity,
  options: { readonly signal?: AbortSignal; readonly onProgress?: ProgressListener },
): Promise<WalkedStream> {
  const { streamOffset, compression } = identity;
  const index = new TolerantIndex();
  const peeked =
    compression === undefined ? await peekStream(source, streamOffset).catch(() => undefined) : undefined;
  const reading = await walkStream(
    compression === undefined
      ? new RangeSource(source, streamOffset)
      : openCompressed(source, streamOffset, compression),
    compression === undefined ? streamOffset : 0,
    index,
    {
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      ...(options.onProgress === undefined ? {} : { onProgress: options.onProgress }),
      ...(peeked === undefined ? {} : { targetPageSize: peeked.head.pageSize }),
    },
  );
  return { reading, blocks: index.blocks.map((places) => describeBlock(places)) };
}

/** Where the description and the sections contradict each other. */
export function findDisagreements({ head, tail, sections }: StreamReading): FormatError[] {
  // Sections that cannot be told apart are not missing.
  if (tail?.description === undefined || tail.undelimited !== undefined) return [];
  return compareDescription(tail.description.content, {
    sections,
    targetPageSize: head.pageSize,
    ramEndOffset: tail.baseOffset,
    descriptionOffset: tail.description.offset,
  });
}

/** Counts pages that came as differences or compressed too: where their content is does not matter here. */
class TolerantIndex extends PageIndex {
  override xbzrlePage(block?: number, address?: number): void {
    this.#count(block, address);
  }

  override compressedPage(block?: number, address?: number): void {
    this.#count(block, address);
  }

  #count(block = 0, address = 0): void {
    // Any place but 0 says that there is content.
    this.page(block, address, EMPTY, 0, 1);
  }
}

const EMPTY = new Uint8Array();

function describeBlock(places: PagePlaces): VerifiedBlock {
  const { entry, pageCount, seen } = places;
  const { name, usedLength } = entry;
  if (!seen) return { name, usedLength };
  let normal = 0;
  for (const { start, end } of places.runs()) normal += end - start;
  return { name, usedLength, pages: { total: pageCount, normal, zero: pageCount - normal, stale: 0 } };
}
