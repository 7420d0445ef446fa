/**
 * A folder for each test.
 *
 * @module
 */

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach } from "vitest";

/** Makes a new folder before each test of the file or suite, and removes it afterwards. */
export function useWorkDir(): { readonly path: string; file(name: string): string } {
  let current = "";
  beforeEach(() => {
    current = mkdtempSync(path.join(realpathSync(tmpdir()), "rpt-"));
  });
  afterEach(() => {
    rmSync(current, { recursive: true, force: true });
  });
  return {
    get path() {
      return current;
    },
    file: (name) => path.join(current, name),
  };
}
