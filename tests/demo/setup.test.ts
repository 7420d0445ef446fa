import { describe, expect, test } from "vitest";

import { compareVersions, ensureNode } from "../../scripts/setup.mjs";

describe("compareVersions", () => {
  test.each([
    ["20.19.0", "20.19", 0],
    ["20.20.2", "20.19", 1],
    ["20.9.0", "20.19", -1],
    ["9.99.99", "20.19", -1],
    ["22.0.0", "20.19.1", 1],
  ])("%s and %s", (one, other, sign) => {
    expect(Math.sign(compareVersions(one, other))).toBe(sign);
  });
});

test("this Node will do", () => {
  expect(ensureNode).not.toThrow();
});
