import { receiveMigration } from "../../src/engine/incoming/receive.js";
import { sourceOf } from "../support/byte-channels.js";

/** Page records of a stream, by kind. */
export interface RecordCounts {
  normal: number;
  zero: number;
  xbzrle: number;
}

/** Counts the page records of a captured stream. */
export async function countRecords(pieces: readonly Uint8Array[], pageSize: number): Promise<RecordCounts> {
  const counts: RecordCounts = { normal: 0, zero: 0, xbzrle: 0 };
  await receiveMigration(
    sourceOf(Buffer.concat(pieces)),
    {
      configuration: () => undefined,
      verbatim: () => undefined,
      ramStart: () => ({
        page: () => (counts.normal += 1),
        zeroPage: () => (counts.zero += 1),
        xbzrlePage: () => (counts.xbzrle += 1),
        compressedPage: () => undefined,
      }),
      ramSectionEnd: () => undefined,
      tail: () => undefined,
    },
    { targetPageSize: pageSize },
  );
  return counts;
}
