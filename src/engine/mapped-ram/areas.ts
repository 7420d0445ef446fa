import { FormatError, printable } from "../../errors/index.js";
import { bitmapBytes, type MappedRamHeader, RAM_SECTION } from "../../wire/index.js";

/** What a skeleton says of places in the file. */
interface Places {
  readonly streamOffset: number;
  /** Offset behind the last block's pages. */
  readonly blockListEndOffset: number;
  readonly blocks: readonly {
    readonly name: string;
    readonly usedLength: number;
    readonly entryOffset: number;
    readonly entryLength: number;
    readonly mapped?: MappedRamHeader;
  }[];
}

interface Area {
  readonly start: number;
  readonly end: number;
  /** For people: `the bitmap of pc.ram`. */
  readonly what: string;
  /** Name and place in the list of the block it belongs to, when it does. */
  readonly block?: { readonly name: string; readonly index: number };
}

/** Two parts of a file that share bytes. */
export interface Overlap {
  readonly error: FormatError;
  /** Places in the block list of the blocks concerned: what their bitmaps and pages hold means nothing. */
  readonly blocks: readonly number[];
}

/** Where headers, block list, bitmaps, page areas and device state do not lie apart from each other. */
export function findOverlaps(skeleton: Places, fileBytes: number): Overlap[] {
  const areas = listAreas(skeleton, fileBytes)
    .filter(({ start, end }) => end > start)
    .sort((a, b) => a.start - b.start || a.end - b.end);
  const overlaps: Overlap[] = [];
  let reach: Area | undefined;
  for (const area of areas) {
    if (reach !== undefined && area.start < reach.end) overlaps.push(describeOverlap(reach, area));
    if (reach === undefined || area.end > reach.end) reach = area;
  }
  return overlaps;
}

function listAreas(skeleton: Places, fileBytes: number): Area[] {
  const { blocks, streamOffset, blockListEndOffset } = skeleton;
  const areas: Area[] = [
    { start: streamOffset, end: blocks[0]?.entryOffset ?? blockListEndOffset, what: "the stream's headers" },
    { start: blockListEndOffset, end: fileBytes, what: "the device state behind RAM" },
  ];
  for (const [index, { name, usedLength, entryOffset, entryLength, mapped }] of blocks.entries()) {
    const block = { name, index };
    const of = `of ${printable(name)}`;
    areas.push({ start: entryOffset, end: entryOffset + entryLength, what: `the list entry ${of}`, block });
    if (mapped === undefined || mapped.pageSize === 0) continue;
    const { bitmapOffset, pagesOffset, pageSize } = mapped;
    const bitmapEnd = bitmapOffset + bitmapBytes(usedLength / pageSize);
    areas.push({ start: bitmapOffset, end: bitmapEnd, what: `the bitmap ${of}`, block });
    areas.push({ start: pagesOffset, end: pagesOffset + usedLength, what: `the pages ${of}`, block });
  }
  return areas;
}

function describeOverlap(first: Area, second: Area): Overlap {
  const block = second.block ?? first.block;
  const message = `Two parts lie over each other: ${first.what} and ${second.what}`;
  const error = new FormatError("inconsistent", message, {
    offset: second.start,
    section: RAM_SECTION.name,
    ...(block === undefined ? {} : { block: block.name }),
    expected: `nothing before ${first.end}`,
    actual: second.start,
  });
  return {
    error,
    blocks: [first, second].flatMap((area) => (area.block === undefined ? [] : [area.block.index])),
  };
}
