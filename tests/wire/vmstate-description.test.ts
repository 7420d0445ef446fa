import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import {
  describeCapabilities,
  describeConfiguration,
  endsWithDescription,
  examineStreamTail,
  layOutJson,
  Limits,
  parseVmstateDescription,
} from "../../src/wire/index.js";
import { corpus, corpusFile, corpusPath, describeWithCorpus } from "../support/corpus.js";

const parse = (value: unknown) => parseVmstateDescription(JSON.stringify(value), 1000);
const sizeOf = (device: object): number | undefined =>
  parse({ devices: [{ name: "d", instance_id: 0, ...device }] }).devices[0]?.payloadBytes;

describe("parseVmstateDescription", () => {
  test("what a device is", () => {
    const text =
      '{"page_size": 4096, "devices": [{"name": "cpu", "instance_id": 1, "version": 12, "size": 7}]}';
    expect(parseVmstateDescription(text, 0)).toEqual({
      pageSize: 4096,
      devices: [{ name: "cpu", instance: 1, version: 12, payloadBytes: 7 }],
    });
    expect(parse({})).toEqual({ devices: [] });
  });

  test("sizes are summed over fields, arrays and subsections", () => {
    expect(sizeOf({ fields: [] })).toBe(0);
    expect(sizeOf({ fields: [{ size: 4 }, { size: 2, array_len: 10 }] })).toBe(24);
    // A struct's size covers what is in it.
    expect(sizeOf({ fields: [{ size: 9, struct: { fields: [{ size: 9 }] } }] })).toBe(9);
    const sub = {
      vmsd_name: "cpu/exits",
      fields: [{ size: 8 }],
      subsections: [{ vmsd_name: "ä", fields: [] }],
    };
    // Type, name's length, name (the second one of two bytes), version, fields.
    expect(sizeOf({ fields: [{ size: 1 }], subsections: [sub] })).toBe(
      1 + (1 + 1 + 9 + 4 + 8) + (1 + 1 + 2 + 4),
    );
  });

  test("what does not say a size has none", () => {
    expect(sizeOf({})).toBeUndefined();
    for (const size of [undefined, -1, 0.5, "4", 2 ** 60, null]) {
      expect(sizeOf({ fields: [{ size }] })).toBeUndefined();
      expect(sizeOf({ fields: [{ size: 1, array_len: size ?? -1 }] })).toBeUndefined();
    }
    expect(sizeOf({ fields: [3] })).toBeUndefined();
    expect(sizeOf({ fields: [], subsections: [3] })).toBeUndefined();
    expect(sizeOf({ fields: [], subsections: [{ fields: [] }] })).toBeUndefined();
    expect(sizeOf({ fields: [{ size: 2 ** 52, array_len: 2 ** 52 }] })).toBeUndefined();
  });

  test.each([
    ["no JSON", "{"],
    ["no object", "[]"],
    ["no devices", '{"devices": 1}'],
    ["a device that is none", '{"devices": [1]}'],
    ["a device without name", '{"devices": [{"instance_id": 0}]}'],
    ["a device without instance", '{"devices": [{"name": "a", "instance_id": 0.5}]}'],
    ["a negative size", '{"devices": [{"name": "a", "instance_id": 0, "size": -5}]}'],
    ["an endless size", '{"devices": [{"name": "a", "instance_id": 0, "size": 1e999}]}'],
  ])("refuses %s", (_, text) => {
    expect(() => parseVmstateDescription(text, 1000)).toThrow(
      expect.objectContaining({
        code: "malformed",
        data: expect.objectContaining({ offset: 1000 }) as unknown,
      }),
    );
  });

  test("refuses what would take gigabytes of memory, at once", () => {
    const count = Limits.descriptionBytes / 4;
    const deep = `{"devices": ${"[".repeat(count)}`;
    const wide = `{"devices": [${"{},".repeat(count)}{}]}`;
    const started = performance.now();
    for (const text of [deep, wide]) {
      expect(() => parseVmstateDescription(text, 0)).toThrow(
        expect.objectContaining({ code: "limit-exceeded" }),
      );
    }
    expect(performance.now() - started).toBeLessThan(1500);
    const subsections = (depth: number): object =>
      depth === 0
        ? { vmsd_name: "a", fields: [] }
        : { vmsd_name: "a", fields: [], subsections: [subsections(depth - 1)] };
    expect(sizeOf(subsections(Limits.descriptionDepth))).toBeGreaterThan(0);
    expect(() => sizeOf(subsections(Limits.descriptionDepth + 1))).toThrow(
      expect.objectContaining({ code: "limit-exceeded" }),
    );
  });

  test("brackets within strings are no nesting", () => {
    const name = '[{"\\'.repeat(1000);
    expect(parse({ devices: [{ name, instance_id: 0 }] }).devices[0]?.name).toBe(name);
  });
});

describe("describeCapabilities", () => {
  const LAYOUT =
    '{"configuration": {"vmsd_name": "configuration", "version": 1, "fields": []}, "page_size": 4096}';

  test("adding and removing", () => {
    const both = describeCapabilities(LAYOUT, ["x-ignore-shared", "mapped-ram"]);
    expect(both).toContain('"array_len": 2, "type": "capability", "size": 16');
    expect(describeCapabilities(both, [])).toBe(LAYOUT);
    expect(describeCapabilities(describeCapabilities(LAYOUT, ["mapped-ram"]), ["mapped-ram"])).toBe(
      describeCapabilities(LAYOUT, ["mapped-ram"]),
    );
  });

  test("what is not laid out as QEMU does stays", () => {
    for (const text of [
      "{",
      "[]",
      '{"configuration":{}}',
      "{}",
      '{"configuration": 1}',
      LAYOUT.replace(": ", ":"),
    ]) {
      expect(describeCapabilities(text, ["mapped-ram"])).toBe(text);
    }
  });
});

describe("describeConfiguration", () => {
  const FIELDS =
    '"vmsd_name": "configuration", "version": 1, "fields": [{"name": "len", "type": "uint32", "size": 4}, {"name": "name", "type": "buffer", "size": 14}]';

  test("is what QEMU 11.1 writes with x-ignore-shared and validate-uuid", () => {
    const configuration = {
      machine: "pc-i440fx-11.1",
      capabilities: ["x-ignore-shared"],
      uuid: new Uint8Array(16),
    };
    expect(layOutJson(describeConfiguration(configuration))).toBe(
      `{${FIELDS}, "subsections": [{"vmsd_name": "configuration/capabilities", "version": 1, "fields": [{"name": "caps_count", "type": "uint32", "size": 4}, {"name": "capabilities", "type": "capability", "size": 16}]}, {"vmsd_name": "configuration/uuid", "version": 1, "fields": [{"name": "uuid.data", "array_len": 16, "type": "uint8", "size": 1}]}]}`,
    );
  });

  test("without them there are no subsections", () => {
    const described = describeConfiguration({ machine: "pc-i440fx-11.1", capabilities: [] });
    expect(layOutJson(described)).toBe(`{${FIELDS}}`);
  });
});

/** The description's text at the end of a corpus file. */
function textOf(name: string): string {
  const bytes = readFileSync(corpusPath(corpusFile(name)));
  // Far more than any of them is long.
  const { description } = examineStreamTail(bytes.subarray(-(1 << 20)), 0);
  return description!.text;
}

/** Files of the same machine whose configurations differ in nothing but capabilities. */
const PAIRS: readonly (readonly [string, readonly string[], string, readonly string[]])[] = [
  ["q100-tiny-exec", [], "q100-mr-tiny", ["mapped-ram"]],
  ["q100-pc-exec", [], "q100-mr-pc", ["mapped-ram"]],
  ["q100-pc-exec", [], "q100-pc-ignoreshared", ["x-ignore-shared"]],
  ["q111-mr-pc", ["mapped-ram"], "q111-mr-pc-ignoreshared", ["x-ignore-shared", "mapped-ram"]],
];

/** Devices differ from run to run (timers, queues); the configuration's part must be QEMU's own. */
function configurationOf(text: string): string {
  const start = text.indexOf('"configuration": ');
  return text.slice(start, text.indexOf('"devices": ', start));
}

describeWithCorpus("descriptions of QEMU's own files", () => {
  test.each(PAIRS)("%s %j and %s %j", (left, leftCapabilities, right, rightCapabilities) => {
    const [leftText, rightText] = [textOf(left), textOf(right)];
    const toRight = describeCapabilities(leftText, rightCapabilities);
    const toLeft = describeCapabilities(rightText, leftCapabilities);
    expect(configurationOf(leftText)).not.toBe(configurationOf(rightText));
    expect(configurationOf(toRight)).toBe(configurationOf(rightText));
    expect(configurationOf(toLeft)).toBe(configurationOf(leftText));
    expect(describeCapabilities(toRight, leftCapabilities)).toBe(leftText);
    expect(describeCapabilities(toLeft, rightCapabilities)).toBe(rightText);
  });

  test("the whole text is QEMU's where the devices are the same", () => {
    expect(describeCapabilities(textOf("q100-mr-tiny"), [])).toBe(textOf("q100-tiny-exec"));
    expect(describeCapabilities(textOf("q100-tiny-exec"), ["mapped-ram"])).toBe(textOf("q100-mr-tiny"));
  });

  test("nothing changes where there is nothing to change", () => {
    for (const { name, capabilities, container } of corpus?.files ?? []) {
      if (container !== "qemu" || /postcopy|bgsnapshot/.test(name)) continue;
      const text = textOf(name);
      expect(describeCapabilities(text, capabilities), name).toBe(text);
    }
  });

  test("endsWithDescription", () => {
    const bytes = readFileSync(corpusPath(corpusFile("q100-mr-tiny"))).subarray(-(1 << 20));
    expect(endsWithDescription(bytes)).toBe(true);
    expect(endsWithDescription(bytes.subarray(0, -1))).toBe(false);
  });
});
