import { expect, test } from "vitest";

import { eachPiece } from "../../src/engine/ram-block.js";

test("eachPiece divides at segments and at the largest piece", () => {
  const segments = [new Uint8Array(10), new Uint8Array(6), new Uint8Array(4)];
  const pieces: (readonly [number, number])[] = [];
  eachPiece(segments, 3, 15, 5, (bytes, address) => pieces.push([address, bytes.length]));
  expect(pieces).toEqual([
    [3, 5],
    [8, 2],
    [10, 5],
    [15, 1],
    [16, 2],
  ]);
});
