import type { ByteSource, RandomAccessSource } from "../channels/byte-stream.js";
import { RangeSource } from "../channels/range-source.js";
import { readMigrationHead, receiveMigration } from "../engine/incoming/receive.js";
import { StreamFacts, type StreamHead } from "../engine/incoming/stream-facts.js";
import type { MigrationTarget } from "../engine/migration-target.js";
import type { ProgressListener } from "../engine/progress.js";
import { FormatError } from "../errors/index.js";
import {
  ByteReader,
  decodeSectionHeader,
  SECTION_FOOTER_BYTES,
  SectionType,
  searchStreamTail,
  type StreamTail,
} from "../wire/index.js";
import type { SnapshotSection } from "./snapshot.js";
import type { StreamReading } from "./stream-parts.js";

const HEAD_READ_BYTES = 64 << 10;

/** How to walk a stream. */
export interface WalkOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: ProgressListener;
  readonly targetPageSize?: number;
}

/**
 * Reads what a stream in a file says beside its pages: head and tail, which is found from the file's end, so that
 * gigabytes of pages need not be walked.
 *
 * @returns Undefined when the tail cannot be found so, and the stream has to be walked.
 * @throws FormatError when the head is damaged.
 */
export async function peekStream(
  source: RandomAccessSource,
  streamOffset: number,
): Promise<StreamReading | undefined> {
  const read = (position: number, length: number): Uint8Array => {
    const bytes = new Uint8Array(length);
    return bytes.subarray(0, source.readAt(bytes, position));
  };
  const first = await readMigrationHead(headSource(source, streamOffset), { startOffset: streamOffset });
  const tail = searchStreamTail(read, source.sizeBytes, { streamOffset, ramSectionId: first.ram.id });
  if (tail === undefined) return undefined;
  const targetPageSize = tail.description?.content.pageSize;
  const head =
    targetPageSize === undefined || targetPageSize === first.pageSize
      ? first
      : await readMigrationHead(headSource(source, streamOffset), {
          startOffset: streamOffset,
          targetPageSize,
        });
  return { head, tail, sections: listStreamSections(head, tail, true), problems: [] };
}

/** The head takes a few kilobytes: its reader would else ask for a whole window. */
function headSource(source: RandomAccessSource, position: number): ByteSource {
  const range = new RangeSource(source, position);
  return { read: (target) => range.read(target.subarray(0, HEAD_READ_BYTES)), close: () => range.close() };
}

/**
 * Walks a whole stream; its pages go to a target. The source is closed: what unpacks it would else wait for ever to be
 * read, when the stream turns out to be bad.
 *
 * @throws FormatError when it is damaged; what the target throws; CancelledError.
 */
export async function walkStream(
  source: ByteSource,
  streamOffset: number,
  pages: MigrationTarget,
  options: WalkOptions,
): Promise<StreamReading> {
  const facts = new StreamFacts(pages);
  try {
    await receiveMigration(source, facts, { ...options, startOffset: streamOffset });
  } finally {
    await source.close();
  }
  const { head, streamTail: tail, outsideRam } = facts;
  if (head === undefined || tail === undefined)
    throw new FormatError("malformed", "The stream has no RAM section");
  // Memory is whole and readable, so this is nothing to refuse the file for.
  const problems = tail.undelimited === undefined ? [] : [tail.undelimited];
  const { footers } = facts;
  return { head, tail, sections: listStreamSections(head, tail, footers), problems, outsideRam, footers };
}

/** All sections of a stream, one for each that begins, in stream order. */
function listStreamSections(head: StreamHead, tail: StreamTail, footers: boolean): SnapshotSection[] {
  const { ram, ramOffset, passed } = head;
  const begun = passed.flatMap(({ bytes, offset }) =>
    bytes.length === 0 ? [] : describePassed(bytes, offset, footers),
  );
  const foreignBytes = passed
    .filter(({ offset }) => offset > ramOffset)
    .reduce((sum, { length }) => sum + length, 0);
  const ramLength = tail.baseOffset - ramOffset - foreignBytes;
  return [
    ...begun.filter(({ offset }) => offset < ramOffset),
    { ...ram, iterative: true, offset: ramOffset, length: ramLength },
    ...begun.filter(({ offset }) => offset > ramOffset),
    ...tail.sections,
  ];
}

function describePassed(bytes: Uint8Array, offset: number, footers: boolean): SnapshotSection[] {
  const reader = new ByteReader(bytes, offset);
  const type = reader.u8();
  if (type !== SectionType.START && type !== SectionType.FULL) return [];
  const header = decodeSectionHeader(reader);
  const payloadLength = bytes.length - reader.position - (footers ? SECTION_FOOTER_BYTES : 0);
  const iterative = type === SectionType.START;
  return [
    { ...header, iterative, offset, length: bytes.length, payloadOffset: reader.offset, payloadLength },
  ];
}
