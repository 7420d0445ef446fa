/** `ramport diff` and `ramport map` as their users meet them. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";

import { buildGuest, filled, type GuestSpec } from "../snapshot/build-guest.js";
import { ramport, ramportJson } from "../support/ramport-cli.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

function write(name: string, spec: GuestSpec): void {
  writeFileSync(workDir.file(name), buildGuest(spec).bytes);
}

beforeEach(() => {
  write("a.ram", { blocks: { "ram\u001b[2J": [filled(1), filled(2), undefined, filled(3)] } });
  write("b.ram", { blocks: { "ram\u001b[2J": [filled(1), filled(9), filled(8), undefined] } });
  write("other.ram", { machine: "other-2.0", blocks: { ram: [filled(1)] } });
  writeFileSync(workDir.file("bad.ram"), "no snapshot");
});

const run = (...args: readonly string[]) => ramport(args, { cwd: workDir.path });

describe("diff", () => {
  test.each([
    ["the same", ["a.ram", "a.ram"], 0],
    ["different", ["a.ram", "b.ram"], 1],
    ["another machine", ["a.ram", "other.ram"], 2],
    ["a bad file", ["a.ram", "bad.ram"], 1],
    ["a file that is not there", ["a.ram", "none.ram"], 3],
  ])("%s", async (_name, files, code) => {
    expect(await run("diff", ...files)).toMatchObject({ code });
    const json = await run("diff", ...files, "--json");
    expect(json.code).toBe(code);
    expect(json.stdout === "").toBe(files.includes("a.ram") && !["a.ram", "b.ram"].includes(files[1]!));
  });

  test("says what has become of the pages, and nothing to the terminal", async () => {
    const { stdout, stderr } = await run("diff", "a.ram", "b.ram");
    expect(stderr).toBe("");
    expect(stdout).not.toContain("\u001b");
    expect(stdout).toMatch(/0x1000 to 0x2000 {2}changed {6}1 page$/m);
    expect(stdout).toMatch(/0x2000 to 0x3000 {2}appeared {5}1 page$/m);
    expect(stdout).toMatch(/0x3000 to 0x4000 {2}became zero {2}1 page$/m);
    expect(stdout).toMatch(/a\.ram and b\.ram differ: 3 pages\n$/);
  });

  test("JSON has every range", async () => {
    const pages = 5000;
    write("c.ram", { blocks: { ram: Array.from({ length: pages }, (_, page) => filled(page % 2)) } });
    write("d.ram", { blocks: { ram: new Array<undefined>(pages).fill(undefined) } });
    const { stdout } = await run("diff", "c.ram", "d.ram", "--json");
    const result = JSON.parse(stdout) as {
      readonly blocks: readonly { readonly ranges: readonly object[]; readonly pages: object }[];
    };
    expect(result.blocks[0]?.ranges).toHaveLength(pages);
    expect(result.blocks[0]?.ranges[1]).toEqual({ start: 1, end: 2, change: "became-zero" });
    expect(result).toMatchObject({
      a: { machine: "test-1.0" },
      fields: [],
      blocksOnlyInOne: [],
      summary: { same: false, pages: { becameZero: pages / 2, equal: pages / 2 } },
    });
  });
});

describe("map", () => {
  test.each(["html", "svg", "png"])("draws %s", async (format) => {
    const file = workDir.file(`map.${format}`);
    const result = await ramportJson(["map", workDir.file("a.ram"), "-o", file]);
    expect(result).toMatchObject({
      path: file,
      subject: "memory",
      kinds: { zero: { pages: 1 }, data: { pages: 3 } },
    });
    expect(readFileSync(file).length).toBeGreaterThan(1000);
    // Names of files are shown, not where they lie.
    expect(readFileSync(file, "latin1")).not.toContain(workDir.path);
  });

  test("draws what changed", async () => {
    const { code, stdout } = await run("map", "a.ram", "b.ram", "-o", "map.svg");
    expect(code).toBe(0);
    expect(stdout).toContain("drawn into map.svg");
    expect(readFileSync(workDir.file("map.svg"), "utf8")).toMatch(
      /<title>[^<]*0x1000 to 0x1fff: 1 changed<\/title>/,
    );
  });

  test("refuses what it cannot write before it reads", async () => {
    writeFileSync(workDir.file("taken.svg"), "mine");
    const before = readdirSync(workDir.path);
    expect(await run("map", "a.ram", "-o", "map.pdf")).toMatchObject({ code: 2 });
    expect(await run("map", "a.ram", "-o", "taken.svg")).toMatchObject({ code: 2 });
    expect(await run("map", "a.ram")).toMatchObject({ code: 2 });
    expect(await run("map", "bad.ram", "-o", "map.svg")).toMatchObject({ code: 1 });
    expect(await run("map", "a.ram", "other.ram", "-o", "map.svg")).toMatchObject({ code: 2 });
    expect(readdirSync(workDir.path)).toEqual(before);
    expect(await run("map", "a.ram", "-o", "taken.svg", "--force")).toMatchObject({ code: 0 });
  });
});
