import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { isZero } from "../../src/memory/index.js";

describe("isZero", () => {
  test("any place, any length, any alignment", () => {
    fc.assert(
      fc.property(fc.nat(40), fc.nat(80), fc.nat(7), fc.option(fc.nat(130)), (at, length, shift, stain) => {
        const bytes = new Uint8Array(new ArrayBuffer(140), shift, 132);
        if (stain !== null) bytes[stain] = 1;
        const expected = stain === null || stain < at || stain >= at + length;
        expect(isZero(bytes, at, length)).toBe(expected);
      }),
      { numRuns: 1000 },
    );
  });

  test.each([0, 1, 2, 3, 4])("each single byte of a page counts, %i bytes into a buffer", (shift) => {
    const page = new Uint8Array(new ArrayBuffer(4096 + 8), shift, 4096);
    for (let index = 0; index < page.length; index++) {
      page[index] = 0x80;
      expect(isZero(page, 0, page.length)).toBe(false);
      page[index] = 0;
    }
    expect(isZero(page, 0, page.length)).toBe(true);
  });

  test("minus zero is not zero", () => {
    expect(isZero(new Uint8Array(new Float64Array([-0]).buffer), 0, 8)).toBe(false);
  });
});
