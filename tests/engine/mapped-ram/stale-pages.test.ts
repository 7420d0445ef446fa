import fc from "fast-check";
import { expect, test } from "vitest";

import { clearStalePages, findStaleBytes, openMappedRam, readPageBitmap } from "../../../src/engine/index.js";
import { buildSnapshot, MemorySource } from "../../snapshot/build-snapshot.js";

const PAGE = 4096;

/** A file system that holds data in pieces of its own size, from places of its own. */
class SparseMemory extends MemorySource {
  readonly #pieceBytes: number;
  readonly #shift: number;

  constructor(bytes: Uint8Array, pieceBytes: number, shift: number) {
    super(bytes);
    this.#pieceBytes = pieceBytes;
    this.#shift = shift;
  }

  nextDataRange(offset: number, end: number): { start: number; end: number } | undefined {
    for (let at = offset; at < end;) {
      const next = at - ((at + this.#shift) % this.#pieceBytes) + this.#pieceBytes;
      if (this.bytes.subarray(at, next).some((byte) => byte !== 0))
        return { start: at, end: Math.min(end, next) };
      at = next;
    }
    return undefined;
  }
}

const { bytes: sound, blocks } = buildSnapshot();
const skeleton = openMappedRam(new MemorySource(sound));
const clearPages = skeleton.blocks.flatMap((block) =>
  [...readPageBitmap(new MemorySource(sound), block).clearRuns()].flatMap(({ start, end }) =>
    Array.from({ length: end - start }, (_, index) => ({
      block: block.name,
      offset: block.mapped!.pagesOffset + (start + index) * PAGE,
    })),
  ),
);

test("old bytes are found and cleared wherever they are, and no others, whatever the file system says of holes", async () => {
  expect(clearPages).toHaveLength(
    blocks.reduce((sum, { memory, present }) => sum + memory.length / PAGE - present.size, 0),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(clearPages.length - 1), fc.nat(PAGE - 1)), { maxLength: 5 }),
      fc.constantFrom(512, 4096, 8192, 131_072, 2 ** 30),
      fc.nat(4096),
      async (places, pieceBytes, shift) => {
        const bytes = sound.slice();
        for (const [page, at] of places) bytes[clearPages[page]!.offset + at] = 1;
        const file = new SparseMemory(bytes, pieceBytes, shift);
        const found = await findStaleBytes(file, skeleton);
        expect(found === undefined).toBe(places.length === 0);
        if (found !== undefined) {
          const first = places.map(([page]) => clearPages[page]!).sort((a, b) => a.offset - b.offset)[0]!;
          expect(found.block).toBe(first.block);
          expect(found.offset).toBeLessThan(first.offset + PAGE);
        }
        const cleared = clearStalePages(file, skeleton);
        expect(cleared > 0).toBe(places.length > 0);
        expect(Buffer.from(file.bytes).equals(sound)).toBe(true);
        expect(await findStaleBytes(file, skeleton)).toBeUndefined();
      },
    ),
    { numRuns: 40 },
  );
});
