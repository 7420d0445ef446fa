import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { MessageSplitter, withDoubleQuotes } from "../../src/monitor/message-splitter.js";

/** What comes out when the bytes arrive in these pieces. */
function split(pieces: readonly (string | Buffer)[], maxBytes?: number): string[] {
  const splitter = new MessageSplitter(maxBytes);
  return pieces.flatMap((piece) =>
    [...splitter.push(Buffer.from(piece))].map((message) =>
      "text" in message ? message.text : `malformed: ${message.malformed}`,
    ),
  );
}

describe("messages", () => {
  test("need no newline, and may lie over several lines", () => {
    expect(split(['{"a":1}{"b":2}\r\n\n {"c":\n[3]}'])).toEqual(['{"a":1}', '{"b":2}', '{"c":\n[3]}']);
  });

  test("brackets and quotes in strings are text", () => {
    const texts = ['{"a":"}]\\"{"}', "{'a':'it\\'s }'}", '{"a":"\'{"}'];
    expect(split([texts.join("")])).toEqual(texts);
  });

  test("come out the same however they are cut into packets", () => {
    const value = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 }));
    fc.assert(
      fc.property(fc.array(value, { maxLength: 5 }), fc.array(fc.nat(2000)), (values, cuts) => {
        const texts = values.map((one) => JSON.stringify(one));
        const bytes = Buffer.from(texts.join("\n"));
        const places = [...new Set([0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length])];
        places.sort((a, b) => a - b);
        const pieces = places.slice(1).map((end, index) => bytes.subarray(places[index], end));
        expect(split(pieces)).toEqual(texts);
      }),
    );
  });
});

describe("what is no message", () => {
  test.each([
    ["a word", "hello\n", "must be a JSON object"],
    ["a number", "5\n", "must be a JSON object"],
    ["brackets that do not match", '{"a":[}\n', "brackets do not match"],
    ["a string without an end", '{"a":"b\n', "a string is not ended"],
    ["bytes that are no UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d, 0x0a]), "invalid UTF-8"],
    ["deep nesting", `${"[".repeat(2000)}\n`, "nesting limit"],
  ])("%s is reported once, and the next line is read", (_, input, message) => {
    expect(split([Buffer.concat([Buffer.from(input), Buffer.from('{"x":1}')])])).toEqual([
      expect.stringContaining(`malformed: `) as string,
      '{"x":1}',
    ]);
    expect(split([input])[0]).toContain(message);
  });

  test("a message that does not end is dropped at the limit, in one packet and in many", () => {
    const long = `{"a":"${"x".repeat(100)}"}`;
    expect(split([long], 99)).toEqual([expect.stringContaining("longer than 99 bytes")]);
    expect(split(Array.from(long), 99)).toEqual([expect.stringContaining("longer than 99 bytes")]);
    expect(split([...Array.from(long), '\n{"x":1}'], 99)).toHaveLength(2);
    expect(split([long], long.length)).toEqual([long]);
  });
});

test("single quotes become JSON's own", () => {
  expect(JSON.parse(withDoubleQuotes(`{'a':'it\\'s "so"', "b":"'\\"'", 'c\\n':[1]}`))).toEqual({
    a: `it's "so"`,
    b: `'"'`,
    "c\n": [1],
  });
});
