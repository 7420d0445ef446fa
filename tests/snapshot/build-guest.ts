/**
 * Builds the snapshot of a guest whose memory a test chooses.
 *
 * @module
 */
import { MappedRamWriter } from "../../src/engine/index.js";
import { decodeStreamTail, SectionType } from "../../src/wire/index.js";
import { buildTail, MemorySource } from "./build-snapshot.js";

/** Bytes of a page of built guests. */
export const PAGE = 4096;

/** A guest: everything has a default. */
export interface GuestSpec {
  readonly machine?: string;
  readonly uuid?: Uint8Array;
  /** Pages of each block; one that is undefined has no content. */
  readonly blocks: Readonly<Record<string, readonly (Uint8Array | undefined)[]>>;
  readonly devices?: Parameters<typeof buildTail>[0];
}

/** Writes the guest with ramport's own writer. A page of zeros is written as one with content. */
export function buildGuest({ machine = "test-1.0", uuid, blocks, devices }: GuestSpec): MemorySource {
  const file = new MemorySource();
  const writer = new MappedRamWriter(file);
  writer.configuration({
    machine,
    capabilities: [],
    ...(uuid === undefined ? {} : { uuid }),
  });
  const entries = Object.entries(blocks);
  const sink = writer.ramStart(
    { id: 1, name: "ram", instance: 0, version: 4 },
    entries.map(([name, pages]) => ({ name, usedLength: pages.length * PAGE })),
    PAGE,
  );
  writer.ramSectionEnd(SectionType.START, true);
  for (const [block, [, pages]] of entries.entries()) {
    for (const [page, content] of pages.entries()) {
      if (content !== undefined) sink.page(block, page * PAGE, content, 0);
    }
  }
  writer.ramSectionEnd(SectionType.END, true);
  const tail = buildTail(devices);
  writer.tail(decodeStreamTail(tail, 0), tail);
  return file;
}

/** A page of one byte. */
export function filled(value: number, length = PAGE): Uint8Array {
  return new Uint8Array(length).fill(value);
}
