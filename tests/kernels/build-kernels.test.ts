import fs from "node:fs";

import { expect, test } from "vitest";

import { buildKernels, loadWabt } from "../../scripts/build-kernels.mjs";

test("the kernels in the tree are what their sources say", async () => {
  const kernels = buildKernels(await loadWabt());
  expect(kernels.length).toBeGreaterThan(0);
  for (const { path, text } of kernels) expect(fs.readFileSync(path, "utf8")).toBe(text);
});
