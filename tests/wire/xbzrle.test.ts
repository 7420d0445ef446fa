import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../src/errors/index.js";
import { applyXbzrle, encodeXbzrle, encodeXbzrleAt, wordReadable } from "../../src/wire/index.js";

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

describe("encodeXbzrle", () => {
  /** Encodes into a buffer with other bytes around, and looks that these stay. */
  function delta(before: Uint8Array, after: Uint8Array, limit = PAGE * 3): Uint8Array | -1 {
    const out = new Uint8Array(limit + 20).fill(0xaa);
    const length = encodeXbzrle(before, after, out, 7, limit);
    expect(length).toBeLessThanOrEqual(limit);
    expect(out.subarray(0, 7).every((byte) => byte === 0xaa)).toBe(true);
    expect(out.subarray(7 + limit).every((byte) => byte === 0xaa)).toBe(true);
    return length === -1 ? -1 : out.slice(7, 7 + length);
  }

  const pair = fc.tuple(edits, edits).map(([first, second]) => {
    const before = edit(new Uint8Array(PAGE), first);
    return [before, edit(before, second)] as const;
  });

  test("is the plainest encoder, and the receiver undoes it", () => {
    fc.assert(
      fc.property(pair, ([before, after]) => {
        const encoded = delta(before, after);
        expect(encoded).toEqual(encode(before, after));
        const page = before.slice();
        applyXbzrle(page, encoded as Uint8Array);
        expect(Buffer.compare(page, after)).toBe(0);
      }),
      { numRuns: 500 },
    );
  });

  test("at bits and pieces: short pages of few values, wherever they begin", () => {
    const byte = fc.integer({ min: 0, max: 1 });
    const content = fc.array(fc.tuple(byte, byte), { maxLength: 40 });
    fc.assert(
      fc.property(content, fc.nat(3), fc.nat(3), (bytes, oldShift, freshShift) => {
        const before = new Uint8Array(50).subarray(oldShift, oldShift + bytes.length);
        const after = new Uint8Array(50).subarray(freshShift, freshShift + bytes.length);
        before.set(bytes.map(([old]) => old));
        after.set(bytes.map(([, fresh]) => fresh));
        expect(delta(before, after)).toEqual(encode(before, after));
      }),
      { numRuns: 2000 },
    );
  });

  test("fits exactly, or not at all", () => {
    fc.assert(
      fc.property(pair, fc.nat(40), ([before, after], less) => {
        const { length } = encode(before, after);
        const whole = delta(before, after, length);
        expect(whole).not.toBe(-1);
        if (length > 0) expect(delta(before, after, Math.max(0, length - 1 - less))).toBe(-1);
      }),
      { numRuns: 300 },
    );
  });

  test("the end of the target is a limit too", () => {
    const after = new Uint8Array(PAGE).fill(1);
    expect(encodeXbzrle(new Uint8Array(PAGE), after, new Uint8Array(PAGE), 0, 2 * PAGE)).toBe(-1);
  });

  test("pages of larger buffers", () => {
    fc.assert(
      fc.property(pair, fc.nat(3), fc.nat(3), ([before, after], oldPage, freshPage) => {
        const old = new Uint8Array(4 * PAGE).fill(0x11);
        const fresh = new Uint8Array(4 * PAGE).fill(0x22);
        old.set(before, oldPage * PAGE);
        fresh.set(after, freshPage * PAGE);
        const out = new Uint8Array(3 * PAGE);
        const oldWords = wordReadable(old);
        const freshWords = wordReadable(fresh);
        const length = encodeXbzrleAt(
          oldWords,
          oldPage * PAGE,
          freshWords,
          freshPage * PAGE,
          PAGE,
          out,
          0,
          out.length,
        );
        expect(out.slice(0, length)).toEqual(encode(before, after));
      }),
    );
  });

  const zero = new Uint8Array(PAGE);
  test.each([
    ["nothing changed", [], []],
    ["the first byte", [[0, 1]], [0, 1, 1]],
    ["the last byte", [[4095, 1]], [0xff, 0x1f, 1, 1]],
    [
      "bytes 127 and 128",
      [
        [127, 5],
        [128, 6],
      ],
      [0x7f, 2, 5, 6],
    ],
    ["byte 128", [[128, 6]], [0x80, 1, 1, 6]],
    [
      "one byte between two",
      [
        [10, 1],
        [12, 2],
      ],
      [10, 1, 1, 1, 1, 2],
    ],
    ["a byte to 0x80", [[4, 0x80]], [4, 1, 0x80]],
  ] as const)("%s", (_, changes, expected) => {
    const after = zero.slice();
    for (const [at, value] of changes) after[at] = value;
    expect(delta(zero, after)).toEqual(Uint8Array.from(expected));
  });

  test("a page changed from end to end does not fit in a page", () => {
    expect(delta(zero, new Uint8Array(PAGE).fill(5), PAGE)).toBe(-1);
    expect(delta(zero, new Uint8Array(PAGE).fill(5))).toHaveLength(PAGE + 3);
  });

  test("runs that QEMU's lengths of 14 bits cannot say are refused", () => {
    const before = new Uint8Array(65536);
    const last = before.slice();
    last[0x3fff] = 1;
    expect(delta(before, last, 65536)).toEqual(Uint8Array.of(0xff, 0x7f, 1, 1));
    const beyond = before.slice();
    beyond[0x4000] = 1;
    expect(delta(before, beyond, 65536)).toBe(-1);
    const long = before.slice().fill(1, 0, 0x4000);
    expect(delta(before, long, 65536)).toBe(-1);
  });
});
