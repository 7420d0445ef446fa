import { readFileSync } from "node:fs";
import process from "node:process";

import { describe, expect, test } from "vitest";

import { AlignedSlots } from "../../src/channels/aligned-slots.js";
import { adviseHugePages } from "../../src/hosts/huge-pages.js";

/** Pieces of this process's memory that huge pages were asked for. */
function advised(): number {
  return readFileSync("/proc/self/smaps", "latin1").match(/^VmFlags:.* hg\b/gm)?.length ?? 0;
}

describe.skipIf(process.platform !== "linux")("adviseHugePages", () => {
  test("tells the kernel of memory that begins at a page border, and leaves other memory alone", () => {
    const before = advised();
    const memory = new Uint8Array(new AlignedSlots().take().buffer);
    expect(adviseHugePages(memory.subarray(8))).toBe(false);
    expect(advised()).toBe(before);
    expect(adviseHugePages(memory)).toBe(true);
    expect(advised()).toBe(before + 1);
  });
});
