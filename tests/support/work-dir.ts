/**
 * A folder for each test.
 *
 * @module
 */

import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach } from "vitest";

/** The folder of the test that runs. */
export interface WorkDir {
  readonly path: string;
  /** Path of a file in it. */
  file(name: string): string;
}

/** Makes a new folder before each test of the file or suite, and removes it afterwards. */
export function useWorkDir(): WorkDir {
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
