import type { EarlySection, ExaminedMappedRamFile } from "../engine/mapped-ram/open.js";
import { type ExaminedStreamTail, SECTION_FOOTER_BYTES, SectionType } from "../wire/index.js";
import type { SnapshotSection } from "./snapshot.js";

/** Type byte, id, name length, instance and version: a section's head without its name. */
const SECTION_HEAD_BYTES = 1 + 4 + 1 + 4 + 4;

/** All sections of a mapped-ram file, one for each section that begins, in stream order. */
export function listMappedRamSections(
  skeleton: ExaminedMappedRamFile,
  tail: ExaminedStreamTail | undefined,
): SnapshotSection[] {
  const { ram, ramOffset, beforeRam, betweenRam, blockListEndOffset } = skeleton;
  const foreignBytes = betweenRam.reduce((sum, section) => sum + section.length, 0);
  const ramEnd = skeleton.ramEndOffset ?? blockListEndOffset;
  const sections: SnapshotSection[] = [
    ...beforeRam.flatMap(beginning),
    { ...ram, iterative: true, offset: ramOffset, length: ramEnd - ramOffset - foreignBytes },
    ...betweenRam.flatMap(beginning),
    ...(tail?.sections ?? []),
  ];
  const indexById = new Map(sections.map((section, index) => [section.id, index]));
  for (const { id, length } of [
    ...laterParts(beforeRam),
    ...laterParts(betweenRam),
    ...(tail?.laterParts ?? []),
  ]) {
    const index = indexById.get(id);
    const section = index === undefined ? undefined : sections[index];
    if (index !== undefined && section !== undefined) {
      sections[index] = { ...section, length: section.length + length };
    }
  }
  return sections;
}

function beginning({ type, offset, length, header }: EarlySection): SnapshotSection[] {
  if (header === undefined) return [];
  const headBytes = SECTION_HEAD_BYTES + new TextEncoder().encode(header.name).length;
  return [
    {
      ...header,
      iterative: type === SectionType.START,
      offset,
      length,
      payloadOffset: offset + headBytes,
      payloadLength: length - headBytes - SECTION_FOOTER_BYTES,
    },
  ];
}

function laterParts(early: readonly EarlySection[]): { readonly id: number; readonly length: number }[] {
  return early.flatMap(({ id, length, header }) =>
    id === undefined || header !== undefined ? [] : [{ id, length }],
  );
}
