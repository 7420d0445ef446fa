/**
 * What a mapped-ram file holds, read page by page: slow, and nothing that the product does with pages takes part.
 *
 * @module
 */

import { createHash } from "node:crypto";

import { ReadableFile } from "../../src/channels/index.js";
import { openMappedRam, readMappedRamTail, readPageBitmap } from "../../src/engine/index.js";

const CHUNK_BYTES = 1 << 20;

/** A file's facts. */
export interface MappedRamContent {
  readonly machine: string;
  readonly capabilities: readonly string[];
  /** sha256 of each block as a loader sees it: zeros under clear bits. */
  readonly blocks: readonly { readonly name: string; readonly usedLength: number; readonly sha256: string }[];
  readonly presentPages: number;
  /** Pages under clear bits whose place in the file is not zero. */
  readonly stalePages: number;
  readonly devices: readonly (readonly [name: string, instance: number, version: number])[];
}

/** Reads the whole file. */
export function readMappedRamContent(path: string, streamOffset = 0): MappedRamContent {
  const file = ReadableFile.open(path);
  try {
    const skeleton = openMappedRam(file, streamOffset);
    const { tail } = readMappedRamTail(file, skeleton);
    let presentPages = 0;
    let stalePages = 0;
    const blocks = skeleton.blocks.map((block) => {
      const bitmap = readPageBitmap(file, block);
      const hash = createHash("sha256");
      const { pageSize } = skeleton;
      const zero = Buffer.alloc(pageSize);
      const pagesPerRead = CHUNK_BYTES / pageSize;
      for (let first = 0; first < bitmap.pageCount; first += pagesPerRead) {
        const count = Math.min(pagesPerRead, bitmap.pageCount - first);
        const chunk = Buffer.alloc(count * pageSize);
        if (block.mapped !== undefined) file.readAt(chunk, block.mapped.pagesOffset + first * pageSize);
        for (let index = 0; index < count; index++) {
          const page = chunk.subarray(index * pageSize, (index + 1) * pageSize);
          if (bitmap.has(first + index)) presentPages += 1;
          else if (!page.equals(zero)) {
            stalePages += 1;
            page.fill(0);
          }
        }
        hash.update(chunk);
      }
      return { name: block.name, usedLength: block.usedLength, sha256: hash.digest("hex") };
    });
    const { machine, capabilities } = skeleton.configuration;
    const devices = tail.sections.map(({ name, instance, version }) => [name, instance, version] as const);
    return { machine, capabilities, blocks, presentPages, stalePages, devices };
  } finally {
    file.close();
  }
}
