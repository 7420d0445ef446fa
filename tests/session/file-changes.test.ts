import { appendFileSync, chmodSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";

import { type FileChange, fileChange } from "../../src/session/file-changes.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

test.each<[string, FileChange, (path: string) => void]>([
  ["nothing", "none", () => undefined],
  ["another mode", "none", (path) => chmodSync(path, 0o400)],
  ["more bytes", "written", (path) => appendFileSync(path, "more")],
  [
    "another file",
    "replaced",
    (path) => {
      writeFileSync(`${path}.new`, "same");
      renameSync(`${path}.new`, path);
    },
  ],
  ["no file", "replaced", (path) => rmSync(path)],
])("%s", (_, expected, change) => {
  const path = workDir.file("vm.ram");
  writeFileSync(path, "same");
  const before = statSync(path, { bigint: true });
  change(path);
  expect(fileChange(before, statSync(path, { bigint: true, throwIfNoEntry: false }))).toBe(expected);
});
