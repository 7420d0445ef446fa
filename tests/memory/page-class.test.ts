import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";

import { PageClassifier } from "../../src/memory/index.js";

const PAGE = 4096;

describe("PageClassifier", () => {
  const text = Buffer.from("All work and no play makes a dull page.\n".repeat(200)).subarray(0, PAGE);
  const counter = new Uint8Array(new Uint32Array(PAGE / 4).map((_, index) => index * 0x10001).buffer);
  test.each([
    ["nothing", new Uint8Array(PAGE), "zero"],
    ["one byte", new Uint8Array(PAGE).fill(7, 4095), "sparse"],
    ["one byte in 16", new Uint8Array(PAGE).fill(200, 0, 256), "sparse"],
    ["one more", new Uint8Array(PAGE).fill(200, 0, 257), "data"],
    ["text", text, "text"],
    ["text in UTF-16", Buffer.from(text.toString("latin1").slice(0, PAGE / 2), "utf16le"), "text"],
    ["text that fills a quarter", Buffer.concat([text.subarray(0, 1024), Buffer.alloc(3072)]), "text"],
    ["a table of numbers", counter, "data"],
    ["noise", randomBytes(PAGE), "dense"],
    ["noise in half of it", Buffer.concat([randomBytes(PAGE / 2), Buffer.alloc(PAGE / 2)]), "data"],
  ])("%s", (_name, page, expected) => {
    const classifier = new PageClassifier(PAGE);
    // In the middle of a buffer, and again: nothing is kept from page to page.
    const buffer = Buffer.concat([randomBytes(PAGE), page, randomBytes(PAGE)]);
    expect(classifier.classify(buffer, PAGE)).toBe(expected);
    expect(classifier.classify(buffer, PAGE)).toBe(expected);
  });

  test.each([256, 1024, 8192, 65_536])("noise in pages of %i bytes is dense", (size) => {
    for (let turn = 0; turn < 20; turn++) {
      expect(new PageClassifier(size).classify(randomBytes(size), 0)).toBe("dense");
    }
  });
});
