import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../src/errors/index.js";
import { applyXbzrle } from "../../src/wire/index.js";

const PAGE = 4096;

function uleb128(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...uleb128(value >>> 7)];
}

/** The plainest encoder: runs of equal and of different bytes, nothing for the equal ones at the end. */
function encode(before: Uint8Array, after: Uint8Array): Uint8Array {
  const delta: number[] = [];
  for (let at = 0; at < after.length;) {
    const start = at;
    while (at < after.length && before[at] === after[at]) at += 1;
    if (at === after.length) break;
    const changed = at;
    while (at < after.length && before[at] !== after[at]) at += 1;
    delta.push(...uleb128(changed - start), ...uleb128(at - changed), ...after.subarray(changed, at));
  }
  return Uint8Array.from(delta);
}

const edits = fc.array(
  fc.record({ at: fc.nat(PAGE - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 300 }) }),
  { maxLength: 20 },
);

function edit(
  page: Uint8Array,
  changes: readonly { readonly at: number; readonly bytes: Uint8Array }[],
): Uint8Array {
  const edited = page.slice();
  for (const { at, bytes } of changes) edited.set(bytes.subarray(0, PAGE - at), at);
  return edited;
}

describe("applyXbzrle", () => {
  test("undoes a reference encoder", () => {
    fc.assert(
      fc.property(edits, edits, (first, second) => {
        const before = edit(new Uint8Array(PAGE), first);
        const after = edit(before, second);
        const page = before.slice();
        applyXbzrle(page, encode(before, after));
        expect(Buffer.compare(page, after)).toBe(0);
      }),
    );
  });

  test("a page changed from end to end", () => {
    const after = new Uint8Array(PAGE).fill(5);
    const page = new Uint8Array(PAGE);
    applyXbzrle(page, encode(page, after));
    expect(page).toEqual(after);
  });

  test("pages of 64 KiB need lengths of three bytes", () => {
    const before = new Uint8Array(65536);
    const after = before.slice();
    after[65535] = 1;
    const delta = encode(before, after);
    expect(delta.length).toBe(5);
    applyXbzrle(before, delta);
    expect(before).toEqual(after);
  });

  test("any delta stays within the page or is a FormatError", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (delta) => {
        const around = new Uint8Array(PAGE + 200).fill(0xaa);
        const page = around.subarray(100, 100 + PAGE);
        try {
          applyXbzrle(page, delta);
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
        }
        expect(around.subarray(0, 100).every((byte) => byte === 0xaa)).toBe(true);
        expect(around.subarray(100 + PAGE).every((byte) => byte === 0xaa)).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  test.each([
    ["a run that leaves the page", [0xff, 0x1f, 2, 1, 1]],
    ["an unchanged run that leaves the page", [0xff, 0x7f, 1, 1]],
    ["a changed run that leaves the delta", [0, 5, 1]],
    ["a changed run of nothing", [0, 0]],
    ["an unchanged run with nothing behind it", [5]],
    ["a length cut off", [0x80]],
  ])("refuses %s", (_, delta) => {
    expect(() => {
      applyXbzrle(new Uint8Array(PAGE), Uint8Array.from(delta));
    }).toThrow(expect.objectContaining({ code: "malformed" }));
  });
});
