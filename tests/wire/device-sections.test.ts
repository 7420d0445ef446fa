import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../src/errors/index.js";
import {
  ByteWriter,
  decodeStreamTail,
  encodeCommand,
  encodeSectionFooter,
  encodeSectionHeader,
  examineStreamTail,
  Limits,
  SectionType,
} from "../../src/wire/index.js";

interface Device {
  readonly name: string;
  readonly instance: number;
  readonly version: number;
  readonly payload: Uint8Array;
}

const device = (name: string, payload: ArrayLike<number>, instance = 0): Device => ({
  name,
  instance,
  version: 1,
  payload: Uint8Array.from(payload),
});

const section = (writer: ByteWriter, id: number, { name, instance, version, payload }: Device): void => {
  encodeSectionHeader(writer, SectionType.FULL, { id, name, instance, version });
  encodeSectionFooter(writer.raw(payload), id);
};

function describeDevices(devices: readonly Device[]): string {
  return JSON.stringify({
    devices: devices.map(({ name, instance, version, payload }) => ({
      name,
      instance_id: instance,
      version,
      fields: [{ size: payload.length }],
    })),
  });
}

/** Sections with ids from 2 on, EOF, and a description of them or of what is given. */
function tailOf(devices: readonly Device[], text: string | undefined = describeDevices(devices)): Uint8Array {
  const writer = new ByteWriter();
  for (const [index, each] of devices.entries()) section(writer, index + 2, each);
  return withEnd(writer, text);
}

function withEnd(writer: ByteWriter, text: string | undefined): Uint8Array {
  writer.u8(SectionType.EOF);
  if (text !== undefined) {
    const bytes = new TextEncoder().encode(text);
    writer.u8(SectionType.VMDESCRIPTION).u32(bytes.length).raw(bytes);
  }
  return writer.finish().slice();
}

const BASE = 10_000;
const payload = fc.uint8Array({ maxLength: 200 });
const devices = fc.uniqueArray(
  fc.record({
    name: fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 20 }),
    instance: fc.nat(3),
    version: fc.nat(20),
    payload,
  }),
  { selector: ({ name, instance }) => `${instance} ${name}`, maxLength: 10 },
);

describe("decodeStreamTail", () => {
  test("the description says how long sections are, whatever is in them", () => {
    fc.assert(
      fc.property(devices, (all) => {
        const tail = decodeStreamTail(tailOf(all), BASE);
        expect(tail.sections).toHaveLength(all.length);
        let offset = BASE;
        for (const [index, found] of tail.sections.entries()) {
          const { name, instance, version, payload: bytes } = all[index]!;
          expect(found).toMatchObject({ id: index + 2, name, instance, version, offset, iterative: false });
          expect(found.payloadLength).toBe(bytes.length);
          expect(found.payloadOffset).toBe(offset + 14 + name.length);
          expect(found.length).toBe(14 + name.length + bytes.length + 5);
          offset += found.length;
        }
        expect(tail.eofOffset).toBe(offset);
        expect(tail.description?.offset).toBe(offset + 6);
        expect(tail.trailingBytes).toBe(0);
      }),
    );
  });

  test("without a description the footers do", () => {
    const all = [
      device("cpu", [1, 2, 3]),
      device("timer", []),
      device("pci", new Uint8Array(500).fill(0x7e)),
    ];
    const tail = decodeStreamTail(tailOf(all, "").subarray(0, -5), BASE);
    expect(tail.sections.map(({ name, payloadLength }) => [name, payloadLength])).toEqual([
      ["cpu", 3],
      ["timer", 0],
      ["pci", 500],
    ]);
    expect(tail).not.toHaveProperty("description");
  });

  test("later parts go to the section they continue, or are told apart", () => {
    const writer = new ByteWriter();
    encodeSectionHeader(writer, SectionType.START, { id: 9, name: "htab", instance: 0, version: 1 });
    encodeSectionFooter(writer.u32(1), 9);
    for (const id of [9, 4]) encodeSectionFooter(writer.u8(SectionType.PART).u32(id).u32(7), id);
    encodeCommand(writer, { command: 11, data: new Uint8Array() });
    encodeSectionFooter(writer.u8(SectionType.END).u32(9), 9);
    const tail = decodeStreamTail(withEnd(writer, "{}"), BASE);
    expect(tail.sections).toMatchObject([
      { name: "htab", iterative: true, payloadLength: 4, length: 14 + 4 + 4 + 5 + 14 + 10 },
    ]);
    expect(tail.laterParts).toEqual([{ id: 4, offset: BASE + 27 + 14, length: 14 }]);
    expect(tail.commands).toHaveLength(1);
  });

  test("trailing bytes are counted", () => {
    const bytes = tailOf([device("cpu", [1])]);
    expect(decodeStreamTail(Buffer.concat([bytes, Buffer.alloc(33, 6)]), BASE).trailingBytes).toBe(33);
  });

  test("cut anywhere: a FormatError, but where all sections are whole and no description begins", () => {
    fc.assert(
      fc.property(devices, fc.nat(), (all, at) => {
        const bytes = tailOf(all);
        const cut = at % bytes.length;
        const { eofOffset } = decodeStreamTail(bytes, 0);
        const decode = (): unknown => decodeStreamTail(bytes.subarray(0, cut), 0);
        if (cut === eofOffset + 1) expect(decode).not.toThrow();
        else expect(decode).toThrow(FormatError);
      }),
    );
  });

  test("any damage: examining tells or accepts, and never throws", () => {
    fc.assert(
      fc.property(devices, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }), (all, changes) => {
        const bytes = tailOf(all);
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        const { problems } = examineStreamTail(bytes, BASE);
        for (const problem of problems) expect(problem).toBeInstanceOf(FormatError);
        const decode = (): unknown => decodeStreamTail(bytes, BASE);
        if (problems.length === 0) expect(decode).not.toThrow();
        else expect(decode).toThrow(problems[0]);
      }),
      { numRuns: 500 },
    );
  });
});

describe("examineStreamTail goes on", () => {
  const all = [device("cpu", [1, 2, 3, 4]), device("timer", [5]), device("pci", [6, 7])];
  const names = (bytes: Uint8Array): readonly unknown[] => {
    const { sections, problems, eofOffset } = examineStreamTail(bytes, 0);
    return [sections.map(({ name }) => name), problems.map(({ code }) => code), eofOffset !== undefined];
  };
  const everything = ["cpu", "timer", "pci"];

  test("behind a wrong length", () => {
    const [cpu, ...rest] = all;
    for (const length of [0, 3, 5, 100_000]) {
      const lying = describeDevices([{ ...cpu!, payload: new Uint8Array(length) }, ...rest]);
      const [found, [code], ended] = names(tailOf(all, lying)) as [string[], string[], boolean];
      expect(found).toEqual(everything);
      expect(code).toBe(length > 1000 ? "truncated" : "malformed");
      expect(ended).toBe(true);
    }
  });

  test("behind a damaged footer", () => {
    const bytes = tailOf(all);
    const footer = 14 + "cpu".length + 4;
    for (const at of [footer, footer + 4]) {
      const damaged = bytes.slice();
      damaged[at] = 0x55;
      expect(names(damaged)).toEqual([everything, ["malformed"], true]);
    }
  });

  test("behind other versions, all of them", () => {
    const text = describeDevices(all.map((each) => ({ ...each, version: 2 })));
    expect(names(tailOf(all, text))).toEqual([everything, Array(3).fill("inconsistent"), true]);
  });

  test("without a description that is damaged", () => {
    expect(names(tailOf(all, '{"devices": [,]}'))).toEqual([everything, ["malformed"], true]);
    expect(names(tailOf(all, '{"devices": 7}'))).toEqual([everything, ["malformed"], true]);
    expect(names(tailOf(all).subarray(0, -1))).toEqual([everything, ["truncated"], true]);
  });

  test("and stops where nothing can follow", () => {
    const writer = new ByteWriter();
    section(writer, 2, all[0]!);
    expect(names(withEnd(writer.u8(0x55), describeDevices(all.slice(0, 1))))).toEqual([
      ["cpu"],
      ["malformed"],
      false,
    ]);
    expect(names(new Uint8Array())).toEqual([[], ["truncated"], false]);
  });

  test("a million parts and commands are too many, and refused soon", () => {
    const command = new ByteWriter();
    encodeCommand(command, { command: 11, data: new Uint8Array() });
    const part = new ByteWriter().u8(SectionType.PART).u32(3);
    encodeSectionFooter(part, 3);
    for (const piece of [command.finish(), part.finish()]) {
      const bytes = Buffer.alloc(piece.length * (Limits.sections * 4), piece);
      const started = performance.now();
      expect(examineStreamTail(bytes, 0).problems).toMatchObject([{ code: "limit-exceeded" }]);
      expect(performance.now() - started).toBeLessThan(1000);
    }
  });
});
