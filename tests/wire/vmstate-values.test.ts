import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../src/errors/index.js";
import {
  buildVmstateTree,
  ByteWriter,
  decodeVmstate,
  findVmstateNode,
  matchLayouts,
  parseVmstateLayout,
  searchStreamTail,
  type VmstateBranch,
  vmstateJson,
  type VmstateNode,
} from "../../src/wire/index.js";
import { corpus, corpusPath, describeWithCorpus } from "../support/corpus.js";

const OFFSET = 1000;

function layoutOf(fieldsJson: string, rest = "") {
  const text = `{"devices": [{"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, "fields": ${fieldsJson}${rest}}]}`;
  return parseVmstateLayout(text, 0).devices[0]!;
}

function events(fields: string, payload: Uint8Array, rest = "", maxNodes?: number) {
  const limit = maxNodes === undefined ? {} : { maxNodes };
  return decodeVmstate(layoutOf(fields, rest), { section: "dev", payload, payloadOffset: OFFSET, ...limit });
}

function tree(fields: string, payload: Uint8Array, rest = ""): VmstateBranch {
  return buildVmstateTree(events(fields, payload, rest));
}

function json(fields: string, payload: Uint8Array, rest = ""): unknown {
  return JSON.parse([...vmstateJson(events(fields, payload, rest))].join(""));
}

const bytes = (...values: number[]): Uint8Array => new Uint8Array(values);
const field = (name: string, type: string, size: number, more = ""): string =>
  `{"name": "${name}", ${more}"type": "${type}", "size": ${size}}`;

/** Bytes that some value, subsection header or list mark covers must be all of them, in order. */
function coverage(root: VmstateNode): { readonly decoded: number; readonly raw: number } {
  let [decoded, raw, at] = [0, 0, root.offset];
  // Hundreds of thousands of nodes: an expect for each takes minutes.
  const check = (right: boolean, node: VmstateNode): void => {
    if (!right)
      expect.fail(`${node.kind} ${node.name} at ${node.offset}, ${node.size} bytes: covered up to ${at}`);
  };
  const visit = (node: VmstateNode): void => {
    if (node.kind === "value") {
      at = node.offset + node.size;
      if (node.undecoded === undefined) decoded += node.size;
      else raw += node.size;
      return;
    }
    if (node.kind === "subsection") at += 6 + Buffer.byteLength(node.name);
    for (const child of node.children) {
      // Only lists have marks between their parts.
      check(node.kind === "list" ? child.offset >= at : child.offset === at, child);
      visit(child);
    }
    if (node.kind === "list") at = node.offset + node.size;
    check(at === node.offset + node.size, node);
  };
  visit(root);
  return { decoded, raw };
}

describe("values by the vmstate description", () => {
  test.each([
    ["int8", bytes(0x80), -128],
    ["int16", bytes(0xff, 0xfe), -2],
    ["int32", bytes(0xff, 0xff, 0xff, 0xfd), -3],
    ["int32 le", bytes(0, 0, 1, 0), 256],
    ["int32 equal", bytes(0x80, 0, 0, 0), -(2 ** 31)],
    ["int64", bytes(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), -1n],
    ["int64 equal", bytes(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 2n ** 64n - 1n],
    ["timer", bytes(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), -1n],
    ["uint8", bytes(0x80), 128],
    ["uint8 equal", bytes(0x80), 128],
    ["uint16", bytes(0x12, 0x34), 0x1234],
    ["uint32", bytes(0xff, 0, 0, 0), 0xff000000],
    ["uint64", bytes(0, 0x20, 0, 0, 0, 0, 0, 1), 2n ** 53n + 1n],
    ["bool", bytes(1), true],
    ["bool", bytes(0), false],
    ["float64", bytes(0x3f, 0xf8, 0, 0, 0, 0, 0, 0), 1.5],
    ["CPU_Double_U", bytes(0xc0, 0, 0, 0, 0, 0, 0, 0), -2],
    ["nullptr", bytes(0x30), null],
    ["ptr-marker", bytes(0x30), null],
    ["cpsr", bytes(0x60, 0, 0, 0x1f), 0x6000001f],
    ["buffer", bytes(1, 2, 3), bytes(1, 2, 3)],
  ])("%s", (type, payload, value) => {
    const [node] = tree(`[${field("f", type, payload.length)}]`, payload).children;
    expect(node).toEqual({ kind: "value", name: "f", type, offset: OFFSET, size: payload.length, value });
  });

  test.each([
    ["uint32", 2, "impossible-value"],
    ["bool", 1, "impossible-value"],
    ["nullptr", 1, "impossible-value"],
    ["virtio", 3, "unknown-type"],
  ])("%s of %i bytes stays bytes", (type, size, undecoded) => {
    const payload = new Uint8Array(size).fill(7);
    expect(tree(`[${field("f", type, size)}]`, payload).children).toMatchObject([
      { value: payload, undecoded },
    ]);
  });

  test("words", () => {
    const payload = new ByteWriter().u64(1).u64(2).u32(3).u32(4).finish();
    const fields = `[${field("map", "bitmap", 16)}, ${field("irq", "pci irq state", 8)}]`;
    expect(json(fields, payload)).toEqual({ map: ["1", "2"], irq: [3, 4] });
  });

  test("arrays: one entry for all, an entry each, and pointers of which some are null", () => {
    const one = field("a", "uint8", 1, '"array_len": 3, ');
    expect(json(`[${one}]`, bytes(1, 2, 3))).toEqual({ a: [1, 2, 3] });
    const indexed = `${field("a", "uint8", 1, '"index": 0, ')}, ${field("a", "uint16", 2, '"index": 1, ')}`;
    expect(json(`[${indexed}, ${field("b", "uint8", 1)}]`, bytes(1, 2, 3, 4))).toEqual({
      a: [1, 0x203],
      b: 4,
    });
    const pointers = `${field("p", "nullptr", 1, '"array_len": 2, ')}, ${field("p", "uint8", 1)}, ${field("p", "nullptr", 1)}`;
    expect(json(`[${pointers}]`, bytes(0x30, 0x30, 9, 0x30))).toEqual({ p: [null, null, 9, null] });
    const marked = `${field("p", "ptr-marker", 1)}, ${field("p", "uint8", 1)}, ${field("p", "ptr-marker", 1)}`;
    const array = tree(`[${marked}]`, bytes(0x31, 9, 0x30)).children[0] as VmstateBranch;
    expect(array.children.map(({ index }) => index)).toEqual([0, 0, 1]);
  });

  test("structs, subsections, and what types write themselves", () => {
    const inner = '{"vmsd_name": "inner", "version": 2, "fields": [' + field("x", "uint8", 1) + "]";
    const sub = `, "subsections": [{"vmsd_name": "inner/s", "version": 3, "fields": [${field("y", "uint16", 2)}]}]}`;
    const struct = `[{"name": "s", "type": "struct", "struct": ${inner}${sub}, "size": 16}]`;
    const payload = new ByteWriter().u8(1).u8(5).idstr("inner/s").u32(3).u16(0x102).finish();
    expect(json(struct, payload)).toEqual({ s: { x: 1, "inner/s": { y: 0x102 } } });
    coverage(tree(struct, payload));
    const tmp = `[{"name": "t", "type": "tmp", "vmsd_name": "v", "version": 0, "fields": [${field("x", "uint8", 1)}], "size": 1}]`;
    expect(json(tmp, bytes(7))).toEqual({ t: { x: 7 } });
    expect(json(`[]`, payload.subarray(1), sub.slice(0, -1))).toEqual({ "inner/s": { y: 0x102 } });
  });

  test("a subsection that is another one", () => {
    const sub = `, "subsections": [{"vmsd_name": "dev/s", "version": 3, "fields": []}]`;
    const decode =
      (name: string, version: number, type = 5) =>
      () =>
        tree("[]", new ByteWriter().u8(type).idstr(name).u32(version).finish(), sub);
    expect(decode("dev/s", 3)).not.toThrow();
    expect(decode("dev/x", 3)).toThrow(
      /at dev\/s \(offset 1000, section dev, expected dev\/s, found dev\/x\)/,
    );
    expect(decode("dev/s", 4)).toThrow(/expected 3, found 4/);
    expect(decode("dev/s", 3, 6)).toThrow(/found byte 0x6/);
    expect(decode("dev\u00e9", 3)).toThrow(FormatError);
  });

  test("queues and trees keep every element's own description", () => {
    const item = (size: number): string =>
      `"vmsd_name": "e", "version": 1, "fields": [${field("x", "buffer", size)}]`;
    const queue = `[{"name": "q", "type": "qtailq", ${item(1)}, ${item(2)}, "size": 6}]`;
    expect(json(queue, bytes(1, 8, 1, 9, 9, 0))).toEqual({ q: [{ x: "hex:08" }, { x: "hex:0909" }] });
    expect(json(`[${field("q", "qlist", 1)}]`, bytes(0))).toEqual({ q: [] });
    expect(tree(queue, bytes(1, 8, 0, 9, 9, 0)).children).toMatchObject([{ undecoded: "impossible-value" }]);
    expect(tree(`[${field("q", "qlist", 4)}]`, bytes(1, 8, 8, 0)).children).toMatchObject([
      { undecoded: "no-description" },
    ]);
    const direct = `[{"name": "t", "type": "gtree", ${item(1)}, "size": 15}]`;
    const directBytes = new ByteWriter().u32(1).u8(1).u64(77).u8(5).u8(0).finish();
    expect(json(direct, directBytes)).toEqual({ t: ["77", { x: "hex:05" }] });
    const keyed = `[{"name": "t", "type": "gtree", ${item(2)}, ${item(1)}, "size": 9}]`;
    expect(json(keyed, bytes(0, 0, 0, 1, 1, 3, 4, 5, 0))).toEqual({
      t: [{ x: "hex:0304" }, { x: "hex:05" }],
    });
  });

  test("an array of pointers described by its null first element takes what is left", () => {
    const css = '{"name": "css", "array_len": 3, "type": "struct", "struct": {}, "size": 1}';
    const fields = `[${field("a", "uint8", 1)}, ${css}, ${field("b", "uint8", 1)}]`;
    expect(json(fields, bytes(1, 0x30, 0x30, 0x30, 2))).toEqual({ a: 1, css: [null, null, null], b: 2 });
    const root = tree(fields, bytes(1, 0x30, 9, 9, 9, 0x30, 2));
    expect(root.children).toMatchObject([
      { value: 1 },
      { size: 5, undecoded: "size-mismatch" },
      { value: 2 },
    ]);
    coverage(root);
  });

  test("payloads that the description does not fit stay bytes", () => {
    const two = `[${field("a", "uint8", 1)}, ${field("b", "uint8", 1)}]`;
    for (const length of [0, 1, 3]) {
      expect(tree(two, new Uint8Array(length)).children).toMatchObject([
        { undecoded: "size-mismatch", size: length },
      ]);
    }
    const source = { section: "x", payload: bytes(1), payloadOffset: 0 };
    expect(buildVmstateTree(decodeVmstate(undefined, source)).children).toMatchObject([
      { undecoded: "no-description" },
    ]);
    expect(tree('[{"name": "a"}]', bytes(1)).children).toMatchObject([{ undecoded: "no-description" }]);
  });

  test("hostile counts end at once", () => {
    const many = field("z", "uint8", 0, `"array_len": ${2 ** 40}, `);
    expect(json(`[${many}, ${field("a", "uint8", 1)}]`, bytes(3))).toEqual({ z: [], a: 3 });
    const huge = field("z", "uint8", 1, `"array_len": ${2 ** 40}, `);
    expect(tree(`[${huge}]`, bytes(3)).children).toMatchObject([{ undecoded: "size-mismatch" }]);
    const fields = `[${field("a", "uint8", 1, '"array_len": 100, ')}]`;
    expect(() => [...events(fields, new Uint8Array(100), "", 50)]).toThrow(
      /too many values, at a\/a \(offset 1048/,
    );
  });

  test("names that repeat, and finding nodes", () => {
    const fields = `[${field("a", "uint8", 1)}, ${field("b", "uint8", 1)}, ${field("a", "uint8", 1)}, ${field("c", "uint8", 1, '"array_len": 2, ')}]`;
    expect(json(fields, bytes(1, 2, 3, 4, 5))).toEqual({ a: 1, b: 2, "a#2": 3, c: [4, 5] });
    const root = tree(fields, bytes(1, 2, 3, 4, 5));
    expect(findVmstateNode(root, "c", 1)).toMatchObject({ value: 5 });
    expect(findVmstateNode(root, "c", 2, "x")).toBeUndefined();
  });

  test("any description over any payload: values or a FormatError", () => {
    const type = fc.constantFrom(
      "uint8",
      "uint64",
      "bool",
      "struct",
      "qtailq",
      "gtree",
      "tmp",
      "capability",
      "nullptr",
      "bitmap",
      "odd",
    );
    const size = fc.oneof(fc.nat(9), fc.constantFrom(2 ** 40, Number.MAX_SAFE_INTEGER, -1));
    const { vmsd } = fc.letrec<{ vmsd: object; field: object }>((tie) => ({
      vmsd: fc.record(
        {
          vmsd_name: fc.constantFrom("a", "b"),
          version: fc.nat(2),
          fields: fc.array(tie("field"), { maxLength: 3 }),
        },
        { requiredKeys: ["fields"] },
      ),
      field: fc.record(
        {
          name: fc.constantFrom("x", "y"),
          type,
          array_len: size,
          index: fc.nat(2),
          struct: tie("vmsd"),
          size,
        },
        { requiredKeys: ["name", "type", "size"] },
      ),
    }));
    fc.assert(
      fc.property(vmsd, fc.uint8Array({ maxLength: 40 }), (device, payload) => {
        const text = JSON.stringify({ devices: [{ name: "dev", instance_id: 0, ...device }] });
        try {
          const [layout] = parseVmstateLayout(text, 0).devices;
          coverage(buildVmstateTree(decodeVmstate(layout, { section: "dev", payload, payloadOffset: 5 })));
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
        }
      }),
      { numRuns: 2000, seed: 7 },
    );
  });
});

describeWithCorpus("values of the corpus", () => {
  const described = (corpus?.files ?? []).filter(({ name }) => name !== "lv113-xz" && name !== "lv113-zstd");
  /** Types that devices write with code of their own, and QEMU 7.2's s390_css. */
  const rawBytes: Readonly<Record<string, number>> = {
    "q100-mr-virtiomem": 45620,
    "q111-pc-virtio": 183_901,
    "q72-s390x-s390-ccw-virtio-exec": 1023,
  };

  test.each(described)("$name", (facts) => {
    const file = new Uint8Array(readFileSync(corpusPath(facts)));
    const read = (position: number, length: number): Uint8Array => file.subarray(position, position + length);
    const tail = searchStreamTail(read, file.length, { streamOffset: facts.streamOffset })!;
    const layouts = matchLayouts(parseVmstateLayout(tail.description!.text, 0), tail.sections);
    let raw = 0;
    for (const [index, { name, payloadOffset, payloadLength }] of tail.sections.entries()) {
      const source = { section: name, payload: read(payloadOffset, payloadLength), payloadOffset };
      const root = buildVmstateTree(decodeVmstate(layouts[index], source));
      raw += coverage(root).raw;
      JSON.parse([...vmstateJson(decodeVmstate(layouts[index], source))].join(""));
    }
    expect(raw).toBe(rawBytes[facts.name] ?? 0);
  });

  test.each(["q111-mr-pc-ignoreshared", "q100-mr-tiny", "q100-ppc64-pseries-exec"])(
    "configuration of %s",
    (name) => {
      const facts = described.find((file) => file.name === name)!;
      const file = new Uint8Array(readFileSync(corpusPath(facts)));
      const read = (position: number, length: number): Uint8Array =>
        file.subarray(position, position + length);
      const tail = searchStreamTail(read, file.length)!;
      const { configuration } = parseVmstateLayout(tail.description!.text, 0);
      const length = configurationBytes(facts.machine, facts.capabilities);
      const source = { section: "configuration", payload: read(9, length), payloadOffset: 9 };
      const root = buildVmstateTree(decodeVmstate(configuration, source));
      expect(findVmstateNode(root, "len")).toMatchObject({ value: facts.machine.length });
      expect(coverage(root).raw).toBe(0);
    },
  );
});

function configurationBytes(machine: string, capabilities: readonly string[]): number {
  const names = capabilities.reduce((sum, name) => sum + 1 + name.length, 0);
  return 4 + machine.length + (names === 0 ? 0 : 6 + "configuration/capabilities".length + 4 + names);
}
