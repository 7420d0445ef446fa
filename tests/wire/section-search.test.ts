import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import {
  ByteWriter,
  decodeStreamTail,
  encodeCommand,
  encodeEndOfSection,
  encodeSectionFooter,
  encodeSectionHeader,
  MigrationCommand,
  type ReadAt,
  searchStreamTail,
  SectionType,
} from "../../src/wire/index.js";
import { corpus, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { walkToRamEnd } from "./walk-forward.js";

const RAM_ID = 2;

function readFrom(bytes: Uint8Array): ReadAt {
  return (position, length) => bytes.subarray(position, position + length);
}

interface Device {
  readonly name: string;
  readonly payload: Uint8Array;
  /** What the description says, when not the truth; null: nothing. */
  readonly described?: number | null;
  readonly instance?: number;
}

interface Spec {
  readonly early?: readonly string[];
  readonly devices?: readonly Device[];
  readonly beforeRamEnd?: Uint8Array;
  /** Written behind the first device. */
  readonly between?: (writer: ByteWriter) => void;
  readonly footers?: boolean;
}

/** The end of a stream: pages, the RAM section's END, devices, EOF, description. */
function buildTail({ early = [], devices = [], beforeRamEnd, between, footers = true }: Spec): {
  readonly bytes: Uint8Array;
  readonly base: number;
} {
  const writer = new ByteWriter();
  writer.raw(beforeRamEnd ?? new Uint8Array(5000).fill(0x5a));
  writer.u8(SectionType.END).u32(RAM_ID);
  encodeEndOfSection(writer);
  if (footers) encodeSectionFooter(writer, RAM_ID);
  const base = writer.length;
  devices.forEach(({ name, payload, instance = 0 }, index) => {
    encodeSectionHeader(writer, SectionType.FULL, { id: 10 + index, name, instance, version: 1 });
    writer.raw(payload);
    if (footers) encodeSectionFooter(writer, 10 + index);
    if (index === 0) between?.(writer);
  });
  const described = [
    ...early.map((name) => ({ name, payload: new Uint8Array(8), described: 8, instance: 0 })),
    ...devices,
  ].map(({ name, payload, described: size = payload.length, instance = 0 }) => ({
    name,
    instance_id: instance,
    vmsd_name: name,
    version: 1,
    ...(size === null ? {} : { fields: [{ name: "data", type: "buffer", size }] }),
  }));
  const text = new TextEncoder().encode(JSON.stringify({ page_size: 4096, devices: described }));
  writer.u8(SectionType.EOF).u8(SectionType.VMDESCRIPTION).u32(text.length).raw(text);
  return { bytes: writer.finish().slice(), base };
}

const cpu: Device = { name: "cpu", payload: new Uint8Array(300).fill(7) };
const timer: Device = { name: "timer", payload: new Uint8Array([1, 2, 3]) };

function expectSameAsForward({ bytes, base }: { bytes: Uint8Array; base: number }): void {
  for (const options of [{}, { ramSectionId: RAM_ID }]) {
    expect(searchStreamTail(readFrom(bytes), bytes.length, options)).toEqual(
      decodeStreamTail(bytes.subarray(base), base),
    );
  }
}

describe("searching the sections from the end", () => {
  test("devices whose sizes are described", () => {
    expectSameAsForward(buildTail({ devices: [cpu, timer] }));
    expectSameAsForward(buildTail({ devices: [] }));
    expectSameAsForward(buildTail({ devices: [cpu, { ...cpu, instance: 1 }] }));
  });

  test("devices that stand before RAM are described and not there", () => {
    expectSameAsForward(buildTail({ early: ["virtio-mem-device-early", "other"], devices: [cpu, timer] }));
    expectSameAsForward(buildTail({ early: ["virtio-mem-device-early"], devices: [] }));
  });

  test("commands between sections", () => {
    const between = (writer: ByteWriter): void => {
      encodeCommand(writer, { command: MigrationCommand.PING, data: new Uint8Array([0, 0, 0, 3]) });
      encodeCommand(writer, { command: MigrationCommand.SWITCHOVER_START, data: new Uint8Array(0) });
    };
    expectSameAsForward(buildTail({ devices: [cpu, timer], between }));
    expectSameAsForward(buildTail({ devices: [cpu], between }));
  });

  test.each([null, 1, 299, 301])("a device whose described size is %s", (described) => {
    const tail = buildTail({ devices: [timer, { ...cpu, described }, { ...timer, name: "slirp" }] });
    if (described === null) expectSameAsForward(tail);
    // The forward walk refuses such a file: what it says of it is for it to say.
    else expect(searchStreamTail(readFrom(tail.bytes), tail.bytes.length)).toBeUndefined();
  });

  test("the end of another section behind RAM's", () => {
    const between = (writer: ByteWriter): void => {
      writer.u8(SectionType.END).u32(5).raw(new Uint8Array(70_000).fill(0x33));
      encodeSectionFooter(writer, 5);
    };
    expectSameAsForward(buildTail({ devices: [cpu, timer], between }));
  });

  test("a payload that looks like the end of RAM is stepped over", () => {
    const fake = new ByteWriter();
    encodeEndOfSection(fake);
    encodeSectionFooter(fake, RAM_ID);
    encodeSectionHeader(fake, SectionType.FULL, { id: 11, name: "timer", instance: 0, version: 1 });
    expectSameAsForward(buildTail({ devices: [{ name: "evil", payload: fake.finish().slice() }, timer] }));
  });

  test("two places that could be the end of RAM: neither is believed", () => {
    const fake = new ByteWriter();
    encodeEndOfSection(fake);
    encodeSectionFooter(fake, 77);
    // Of unknown size, and behind the fake end stands a whole section, so that both places can be walked from.
    encodeSectionHeader(fake, SectionType.FULL, { id: 10, name: "evil", instance: 0, version: 1 });
    const evil: Device = { name: "evil", payload: fake.finish().slice(), described: null };
    const { bytes } = buildTail({ early: ["timer"], devices: [evil] });
    expect(searchStreamTail(readFrom(bytes), bytes.length)).toBeUndefined();
    expect(searchStreamTail(readFrom(bytes), bytes.length, { ramSectionId: RAM_ID })).toBeDefined();
  });

  test("streams without footers, without description, and cut off", () => {
    const bare = buildTail({ devices: [cpu, timer], footers: false }).bytes;
    expect(searchStreamTail(readFrom(bare), bare.length)).toBeUndefined();
    const { bytes } = buildTail({ devices: [cpu, timer] });
    for (const length of [0, 1, 7, bytes.length - 1, bytes.length - 100]) {
      expect(searchStreamTail(readFrom(bytes), length)).toBeUndefined();
    }
    const longer = new Uint8Array([...bytes, 0]);
    expect(searchStreamTail(readFrom(longer), longer.length)).toBeUndefined();
    expect(searchStreamTail(() => new Uint8Array(0), bytes.length)).toBeUndefined();
    expect(searchStreamTail(readFrom(bytes), bytes.length, { ramSectionId: 3 })).toBeUndefined();
    expect(
      searchStreamTail(readFrom(bytes), bytes.length, { streamOffset: bytes.length - 300 }),
    ).toBeUndefined();
  });

  test("a failing read passes through", () => {
    const failing = (): never => {
      throw new TypeError("gone");
    };
    expect(() => searchStreamTail(failing, 1000)).toThrow("gone");
  });

  test("damaged bytes: undefined, or what the forward walk says", () => {
    const { bytes, base } = buildTail({ early: ["early"], devices: [cpu, timer, { ...cpu, instance: 1 }] });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        (changes) => {
          const damaged = bytes.slice();
          for (const [at, value] of changes) damaged[at] = value;
          const found = searchStreamTail(readFrom(damaged), damaged.length, { ramSectionId: RAM_ID });
          if (found === undefined) return;
          expect(found.baseOffset).toBe(base);
          expect(found).toEqual(decodeStreamTail(damaged.subarray(base), base));
        },
      ),
      { numRuns: 500, seed: 11 },
    );
  });
});

describeWithCorpus("searching the sections of the corpus from the end", () => {
  const compressed = new Set(["lv113-xz", "lv113-zstd"]);
  test.each(corpus?.files ?? [])("$name", (facts) => {
    const bytes = new Uint8Array(readFileSync(corpusPath(facts)));
    let readBytes = 0;
    const read: ReadAt = (position, length) => {
      readBytes += length;
      return bytes.subarray(position, position + length);
    };
    const found = searchStreamTail(read, bytes.length, { streamOffset: facts.streamOffset });
    if (compressed.has(facts.name)) {
      expect(found).toBeUndefined();
      return;
    }
    const { ramEnd, ramId } = walkToRamEnd(bytes, facts.streamOffset, facts.targetPageSize);
    expect(found?.baseOffset).toBe(ramEnd);
    expect(found).toEqual(decodeStreamTail(bytes.subarray(ramEnd), ramEnd));
    expect(readBytes).toBeLessThan(8 * 1024 * 1024);
    const options = { streamOffset: facts.streamOffset, ramSectionId: ramId };
    expect(searchStreamTail(read, bytes.length, options)).toEqual(found);
  });
});
