import { describe, expect, it } from "vitest";

import { parseOptions, PARTS } from "../../bench/options.js";

const GIB = 2 ** 30;

describe("parseOptions", () => {
  it("measures three sizes, warm and cold, by itself", () => {
    expect(parseOptions([])).toMatchObject({
      size: [GIB, 4 * GIB, 8 * GIB],
      cache: ["warm", "cold"],
      part: PARTS,
    });
  });

  it("takes lists", () => {
    const options = parseOptions(["--size", "512M,2G", "--cache", "cold", "--part", "restore,content"]);
    expect(options).toMatchObject({
      size: [GIB / 2, 2 * GIB],
      cache: ["cold"],
      part: ["restore", "content"],
    });
  });

  it("is quick but for what was asked for", () => {
    const quick = parseOptions(["--quick"]);
    expect(quick).toMatchObject({ size: [GIB], cache: ["warm"] });
    expect(quick.part).not.toContain("sparse");
    expect(quick.runs).toBeLessThan(parseOptions([]).runs);
    expect(parseOptions(["--quick", "--size", "4G", "--part", "sparse", "--runs", "9"])).toMatchObject({
      size: [4 * GIB],
      cache: ["warm"],
      part: ["sparse"],
      runs: 9,
    });
  });
});
