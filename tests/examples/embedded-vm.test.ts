import { execFile } from "node:child_process";
import fs from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { expect, test } from "vitest";

const folder = fileURLToPath(new URL("../../examples/embedded-vm/", import.meta.url));

test("the guide's machine moves while it runs, and is saved where it went", async () => {
  const args = ["--import", "tsx", `${folder}main.ts`];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 60_000 });
  expect(stdout).toMatch(
    /^moved: \d+ pages in \d+ rounds, downtime \d+ ms\nit went on from pass \d+ to \d+, 0 pages wrong\nsaved: toy\.ram, 8388608 bytes\n$/,
  );
});

test("and has a hundred lines, as the guide says", () => {
  const lines = fs.readFileSync(`${folder}toy-vm.ts`, "utf8").trimEnd().split("\n");
  expect(lines.length).toBeLessThanOrEqual(100);
});
