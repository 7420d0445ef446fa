import fc from "fast-check";
import { expect, test } from "vitest";
import { LineSplitter } from "../../src/qmp/lines.js";

test("lines come out whole, wherever the chunks are cut", () => {
  const text = fc.string({ unit: "binary" }).map((s) => s.replaceAll("\n", ""));
  fc.assert(
    fc.property(fc.array(text), fc.array(fc.nat()), (lines, cuts) => {
      const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""));
      const at = [0, ...cuts.map((n) => n % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
      const splitter = new LineSplitter();
      const out: string[] = [];
      for (const [i, from] of at.entries()) out.push(...splitter.push(bytes.subarray(from, at[i + 1])));
      expect(out).toEqual(lines);
    }),
  );
});

test("a line beyond the limit is an error, after the lines before it", () => {
  const splitter = new LineSplitter(4);
  const lines = splitter.push(Buffer.from("1234\n12345"));
  expect(lines.next().value).toBe("1234");
  expect(() => lines.next()).toThrow(/too long.*at most 4 bytes/);
});

test("the limit counts over chunks", () => {
  const splitter = new LineSplitter(4);
  expect([...splitter.push(Buffer.from("123"))]).toEqual([]);
  expect(() => [...splitter.push(Buffer.from("45\n"))]).toThrow(/too long/);
});
