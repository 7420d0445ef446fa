/** What a very long live save, or a hostile file, may hold beside its pages. */
import { describe, expect, test } from "vitest";

import { openMappedRam, StreamFacts, PageIndex } from "../../../src/engine/index.js";
import { FormatError } from "../../../src/errors/index.js";
import { verifySnapshot } from "../../../src/snapshot/index.js";
import {
  ByteWriter,
  encodeEndOfSection,
  encodeSectionFooter,
  Limits,
  SectionType,
} from "../../../src/wire/index.js";
import { buildSnapshot, MemorySource } from "../../snapshot/build-snapshot.js";
import { cpuTimeMs } from "../../support/cpu-time.js";

/** The file with so many more empty PARTs of RAM in front of its END. */
function withParts(bytes: Uint8Array, count: number): Uint8Array {
  const skeleton = openMappedRam(new MemorySource(bytes));
  const part = new ByteWriter().u8(SectionType.PART).u32(skeleton.ram.id);
  encodeEndOfSection(part);
  encodeSectionFooter(part, skeleton.ram.id);
  const frame = part.finish();
  // END has as many bytes as a PART.
  const end = skeleton.ramEndOffset - frame.length;
  const result = new Uint8Array(bytes.length + count * frame.length);
  result.set(bytes.subarray(0, end));
  for (let index = 0; index < count; index++) result.set(frame, end + index * frame.length);
  result.set(bytes.subarray(end), end + count * frame.length);
  return result;
}

describe("the parts of RAM", () => {
  test("may be many: QEMU writes ten a second", () => {
    const { bytes } = buildSnapshot();
    const many = withParts(bytes, Limits.sections + 10);
    const startMs = cpuTimeMs();
    const skeleton = openMappedRam(new MemorySource(many));
    expect(skeleton.ramEndOffset - openMappedRam(new MemorySource(bytes)).ramEndOffset).toBe(
      many.length - bytes.length,
    );
    expect(cpuTimeMs() - startMs).toBeLessThan(2000);
  });
});

describe("a block whose pages are said to be at the end of all numbers", () => {
  test("is a bad file, not a failing machine", async () => {
    const { bytes } = buildSnapshot();
    const skeleton = openMappedRam(new MemorySource(bytes));
    const [block] = skeleton.blocks;
    const copy = bytes.slice();
    // The header's last field stands right before the bitmap.
    new DataView(copy.buffer).setBigUint64(
      (block?.mapped?.bitmapOffset ?? 0) - 8,
      BigInt(Number.MAX_SAFE_INTEGER) - 4095n,
    );
    const { ok, problems } = await verifySnapshot(new MemorySource(copy));
    expect(ok).toBe(false);
    expect(problems.length).toBeGreaterThan(0);
  });
});

describe("what stands beside the pages of a stream", () => {
  test("is bounded", () => {
    const facts = new StreamFacts(new PageIndex());
    const section = new Uint8Array(Limits.tailBytes / 4 + 1);
    section[0] = SectionType.FULL;
    const pass = (): void => {
      for (let count = 0; count < 5; count++) facts.verbatim(section, count);
    };
    expect(pass).toThrow(FormatError);
  });
});
