/** The entry points: package.json has them, and the places that list them say the same. */

import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const project = new URL("../", import.meta.url);
const read = (name: string): string => readFileSync(new URL(name, project), "utf8");
const { exports } = JSON.parse(read("package.json")) as { exports: Record<string, string> };
const layers = Object.keys(exports)
  .filter((name) => name !== "." && name !== "./package.json")
  .map((name) => name.replace("./", "ramport/"));

test.each(Object.entries(exports).filter(([, file]) => file.endsWith(".js")))(
  "%s has a source",
  (_, file) => {
    const source = file.replace("./dist/", "src/").replace(/\.js$/, ".ts");
    expect(existsSync(new URL(source, project))).toBe(true);
  },
);

test("the README and the main entry point list all of them", () => {
  const listed = (text: string): string[] => [
    ...new Set([...text.matchAll(/`(ramport\/[\w/]+)`/g)].map(([, name]) => name!)),
  ];
  const paragraph = /^Entry points:[^]*?\n\n/m.exec(read("README.md"))?.[0] ?? "";
  expect(listed(paragraph).toSorted()).toEqual(layers.toSorted());
  expect(listed(read("src/index.ts")).toSorted()).toEqual(layers.toSorted());
});
