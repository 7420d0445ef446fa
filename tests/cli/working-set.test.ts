/** `ramport working-set`, and `ramport map --working-set`, as their users meet them. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";

import {
  openSnapshot,
  workingSetIdentity,
  type WorkingSetRun,
  writeWorkingSet,
} from "../../src/snapshot/index.js";
import { buildGuest, filled } from "../snapshot/build-guest.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const run = (...args: readonly string[]) => ramport(args, { cwd: workDir.path });

async function record(name: string, snapshotName: string, runs: readonly WorkingSetRun[]): Promise<void> {
  const snapshot = await openSnapshot(workDir.file(snapshotName));
  await writeWorkingSet({ ...workingSetIdentity(snapshot), runs }, workDir.file(name));
  snapshot.close();
}

beforeEach(async () => {
  const blocks = { ram: [filled(1), filled(2), undefined, filled(3)] };
  writeFileSync(workDir.file("a.ram"), buildGuest({ blocks }).bytes);
  writeFileSync(workDir.file("b.ram"), buildGuest({ machine: "other-1.0", blocks }).bytes);
  await record("a.ram.ws", "a.ram", [{ block: 0, firstPage: 3, pageCount: 1 }]);
  await record("more.ws", "a.ram", [{ block: 0, firstPage: 0, pageCount: 2 }]);
  await record("b.ws", "b.ram", []);
});

describe("working-set", () => {
  test("shows what is beside a snapshot, or in a file", async () => {
    for (const file of ["a.ram", "a.ram.ws"]) {
      const { stdout, code } = await run("working-set", file);
      expect(code).toBe(0);
      expect(stdout).toMatch(/^ram +1 +4 KiB +16 KiB$/m);
      expect(stdout).toMatch(/1 page in 1 run: 4 KiB, 25\.0 % of 16 KiB of RAM\n$/);
    }
  });

  test("merges and trims into a new file", async () => {
    const out = workDir.file("out.ws");
    const args = ["working-set", "a.ram", "--merge", "more.ws", "--trim", "8K", "-o", "out.ws"];
    expect(await ramportJson(args, { cwd: workDir.path })).toMatchObject({
      path: out,
      pages: 2,
      runs: 2,
      bytes: 8192,
    });
    expect(await ramportJson(["working-set", out])).toMatchObject({ pages: 2, runs: 2 });
    expect(await run(...args)).toMatchObject({ code: 2 });
    expect(await run(...args, "--force")).toMatchObject({ code: 0 });
  });

  test("does not merge recordings of different snapshots", async () => {
    const { code, stderr } = await run("working-set", "a.ram", "--merge", "b.ws", "-o", "out.ws");
    expect(code).toBe(2);
    expect(stderr).toContain("different snapshots");
    expect(existsSync(workDir.file("out.ws"))).toBe(false);
  });

  test("says what is no working set", async () => {
    const { code, stderr } = await run("working-set", "b.ram");
    expect(code).toBe(1);
    expect(stderr).toContain("no working-set file");
    expect(await run("working-set", "none.ram")).toMatchObject({ code: 3 });
  });
});

describe("map --working-set", () => {
  test("draws the one beside the snapshot", async () => {
    const { stdout, code } = await run("map", "a.ram", "--working-set", "-o", "a.svg");
    expect(code).toBe(0);
    expect(stdout).toContain("asked first");
    expect(readFileSync(workDir.file("a.svg"), "utf8")).toContain("working set");
  });

  test("says when it was recorded of another snapshot, and draws nothing between two", async () => {
    const other = await run("map", "a.ram", "--working-set", "b.ws", "-o", "a.svg");
    expect(other.code).toBe(0);
    expect(other.stderr).toContain("another snapshot");
    expect(await run("map", "a.ram", "b.ram", "--working-set", "b.ws", "-o", "c.svg")).toMatchObject({
      code: 2,
    });
  });
});
