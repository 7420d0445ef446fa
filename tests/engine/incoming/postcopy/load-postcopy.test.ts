import { describe, expect, test } from "vitest";

import { loadHostFromStream, type LoadStreamOptions } from "../../../../src/engine/incoming/load-stream.js";
import { encodeGlobalState } from "../../../../src/engine/global-state.js";
import { FormatError, MachineError } from "../../../../src/errors/index.js";
import {
  ByteReader,
  type ByteRange,
  ByteWriter,
  decodeReturnPathRecord,
  encodeBlockListEntry,
  encodeBlockListHead,
  encodeCommand,
  encodeConfiguration,
  encodeEndOfSection,
  encodeFileHeader,
  encodeSectionFooter,
  encodeSectionHeader,
  MigrationCommand,
  packagedCommand,
  pingCommand,
  plainCommand,
  postcopyAdviseCommand,
  ramDiscardCommand,
  ReturnPathMessage,
  SectionType,
} from "../../../../src/wire/index.js";
import { bytePipe } from "../../../support/byte-pipe.js";
import { Collector, sourceOf } from "../../../support/byte-channels.js";
import { PostcopyToyHost } from "../../../support/postcopy-host.js";
import { FakeHost } from "../../fake-host.js";
import { Records } from "./source-model.js";

const PAGE = 4096;
const RAM_ID = 3;
const HUGE = 4 * PAGE;
const BLOCKS = [
  { name: "ram", usedLength: 8 * PAGE, hostPageSize: PAGE },
  { name: "huge", usedLength: 4 * HUGE, hostPageSize: HUGE },
] as const;

interface Device {
  readonly name: string;
  readonly payload: Uint8Array;
}

/** What the stream is made of; everything has a default that is right. */
interface Spec {
  readonly hostPageSizes?: number;
  readonly targetPageSize?: number;
  /** What the block list says of `huge`. */
  readonly listedHugePage?: number;
  readonly returnPath?: boolean;
  readonly discards?: readonly { readonly block: string; readonly ranges: readonly ByteRange[] }[];
  readonly devices?: readonly Device[];
  /** Instead of what the package is. */
  readonly packaged?: Uint8Array;
  /** Instead of how long it is. */
  readonly packagedLength?: number;
  readonly end?: boolean;
}

const DEVICES: readonly Device[] = [
  { name: "timer", payload: Uint8Array.of(1, 2, 3) },
  // What looks like the section's own end, with a command behind it, and with another section.
  {
    name: "tricky",
    payload: Uint8Array.of(0x7e, 0, 0, 0, 11, 8, 0, 2, 9, 0x7e, 0, 0, 0, 11, 4, 0, 0, 0, 1, 1, 65),
  },
  { name: "last", payload: Uint8Array.of(7) },
];

function packageOf(devices: readonly Device[]): Uint8Array {
  const writer = new ByteWriter();
  encodeCommand(writer, plainCommand(MigrationCommand.POSTCOPY_LISTEN));
  const all = [...devices, { ...encodeGlobalState(true) }];
  for (const [index, { name, payload }] of all.entries()) {
    const header = { id: 10 + index, name, instance: 0, version: 1 };
    encodeSectionHeader(writer, SectionType.FULL, header);
    writer.raw(payload);
    encodeSectionFooter(writer, header.id);
  }
  encodeCommand(writer, pingCommand(3));
  encodeCommand(writer, pingCommand(0x42));
  encodeCommand(writer, plainCommand(MigrationCommand.POSTCOPY_RUN));
  return writer.finish().slice();
}

const content = (fill: number): Uint8Array => new Uint8Array(PAGE).fill(fill);

function streamOf(spec: Spec = {}): Uint8Array {
  const writer = new ByteWriter(1 << 16);
  encodeFileHeader(writer);
  writer.u8(SectionType.CONFIGURATION);
  encodeConfiguration(writer, { machine: "toy", capabilities: [] });
  if (spec.returnPath !== false) encodeCommand(writer, plainCommand(MigrationCommand.OPEN_RETURN_PATH));
  encodeCommand(writer, pingCommand(1));
  const { hostPageSizes = PAGE | HUGE, targetPageSize = PAGE } = spec;
  encodeCommand(writer, postcopyAdviseCommand({ hostPageSizes, targetPageSize }));
  encodeSectionHeader(writer, SectionType.START, { id: RAM_ID, name: "ram", instance: 0, version: 4 });
  encodeBlockListHead(writer, 8 * PAGE + 4 * HUGE);
  encodeBlockListEntry(writer, { name: "ram", usedLength: 8 * PAGE });
  encodeBlockListEntry(writer, {
    name: "huge",
    usedLength: 4 * HUGE,
    ...(spec.listedHugePage === 0 ? {} : { hostPageSize: spec.listedHugePage ?? HUGE }),
  });
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, RAM_ID);
  const records = new Records().begin();
  for (let page = 0; page < 5; page++) records.page("ram", page * PAGE, content(page + 1));
  for (let page = 0; page < 6; page++) records.page("huge", page * PAGE, content(0x40 + page));
  writer.raw(records.close().take());
  const discards = spec.discards ?? [
    { block: "ram", ranges: [{ start: 2 * PAGE, length: 2 * PAGE }] },
    { block: "huge", ranges: [{ start: HUGE, length: HUGE }] },
  ];
  for (const discard of discards) encodeCommand(writer, ramDiscardCommand(discard));
  encodeCommand(writer, pingCommand(2));
  const packaged = spec.packaged ?? packageOf(spec.devices ?? DEVICES);
  encodeCommand(writer, packagedCommand(spec.packagedLength ?? packaged.length));
  writer.raw(packaged);
  encodeCommand(writer, pingCommand(4));
  const behind = new Records().begin();
  // Continues the block of the last page before postcopy.
  writer
    .raw(behind.take())
    .u64((HUGE + 0) | 0x28)
    .raw(content(0x51));
  for (let page = 5; page < 8; page++) behind.page("huge", page * PAGE, content(0x51));
  behind.page("ram", 2 * PAGE, content(0x99)).page("ram", 3 * PAGE, content(0));
  writer.raw(behind.close().take());
  if (spec.end !== false) writer.raw(behind.begin(true).close().take()).u8(SectionType.EOF);
  return writer.finish().slice();
}

function toy(): PostcopyToyHost {
  const host = new PostcopyToyHost("toy", BLOCKS, PAGE);
  for (const { bytes } of host.memory.blocks) bytes.fill(0xee);
  return host;
}

function load(
  host: PostcopyToyHost,
  bytes: Uint8Array,
  options: LoadStreamOptions = {},
): ReturnType<typeof loadHostFromStream> {
  return loadHostFromStream(host, sourceOf(bytes), { returnPath: new Collector(), ...options });
}

describe("loading a host by postcopy", () => {
  test.each([1, 7, 1000, Infinity])("from a stream in pieces of %d bytes", async (pieceBytes) => {
    const host = toy();
    const returnPath = new Collector();
    const order: string[] = [];
    const result = await loadHostFromStream(host, sourceOf(streamOf(), pieceBytes), {
      returnPath,
      postcopy: {
        onListening: () => order.push("listening"),
        onRun: ({ wasRunning }) => void order.push(`run ${String(wasRunning)} ${host.devices.length}`),
        events: { onStatus: (status) => void order.push(status) },
      },
    });
    const [ram, huge] = host.memory.blocks.map(({ bytes }) => bytes);
    const pages = [1, 2, 0x99, 0, 5, 0, 0, 0].map(content);
    expect(Buffer.concat(pages).equals(ram!)).toBe(true);
    const hugePages = [0x40, 0x41, 0x42, 0x43, 0x51, 0x51, 0x51, 0x51, ...new Array<number>(8).fill(0)];
    expect(Buffer.concat(hugePages.map(content)).equals(huge!)).toBe(true);
    expect(host.devices.map(({ name, payload }) => ({ name, payload: Uint8Array.from(payload) }))).toEqual(
      DEVICES,
    );
    expect(order).toEqual(["postcopy-active", "listening", "run true 3", "completed"]);
    expect(result).toMatchObject({
      wasRunning: true,
      pages: { normal: 11 + 5, zero: 1 },
      postcopy: { requests: 0 },
    });
    expect(result.receivedBytes).toBe(streamOf().length);
    const answers: (readonly number[])[] = [];
    const reader = new ByteReader(returnPath.bytes);
    while (reader.remaining > 0) {
      const { type, data } = decodeReturnPathRecord(reader);
      answers.push([type, new ByteReader(data).u32()]);
    }
    const { PONG, SHUT } = ReturnPathMessage;
    // The listener answers what it reads while the devices are loaded.
    expect(answers.slice(0, 2)).toEqual([1, 2].map((value) => [PONG, value]));
    expect(new Set(answers.slice(2, 5).map(([, value]) => value))).toEqual(new Set([3, 0x42, 4]));
    expect(answers.slice(5)).toEqual([[SHUT, 0]]);
  });

  const refusals: readonly (readonly [string, Spec, RegExp])[] = [
    ["other host pages", { hostPageSizes: PAGE }, /same host page sizes.*expected 0x5000, found 0x1000/],
    [
      "other target pages",
      { targetPageSize: 512, hostPageSizes: PAGE | HUGE },
      /same target page sizes.*expected 0x1000, found 0x200/,
    ],
    [
      "a block that is not in huge pages at the source",
      { listedHugePage: 0 },
      /same host page sizes.*block huge, expected 0x4000, found 0x1000/,
    ],
    [
      "a discard of no whole host page",
      { discards: [{ block: "huge", ranges: [{ start: PAGE, length: HUGE }] }] },
      /no host pages of the RAM block.*block huge.*16384 at 0x1000/,
    ],
    [
      "a discard past the end",
      { discards: [{ block: "ram", ranges: [{ start: 7 * PAGE, length: 2 * PAGE }] }] },
      /no host pages of the RAM block.*block ram/,
    ],
    [
      "a discard in a block that is none",
      { discards: [{ block: "rom", ranges: [{ start: 0, length: PAGE }] }] },
      /does not migrate.*block rom/,
    ],
    ["a part of a huge page", { discards: [] }, /A part of a host page.*block huge/],
    ["a package that is cut off", { packagedLength: 1 << 20 }, /middle of the packaged device state/],
    ["a package beyond reason", { packagedLength: 0xffff_ffff }, /absurdly large/],
    ["an empty package", { packaged: new Uint8Array() }, /expected POSTCOPY_LISTEN, found section type none/],
    [
      "a package without LISTEN",
      { packaged: packageOf([]).subarray(5) },
      /expected POSTCOPY_LISTEN, found section type 4/,
    ],
    [
      "a package without RUN",
      { packaged: packageOf(DEVICES).subarray(0, -5) },
      /POSTCOPY_RUN at the end, found section type none/,
    ],
    [
      "a package with something behind RUN",
      { packaged: Buffer.concat([packageOf(DEVICES), Uint8Array.of(0)]) },
      /POSTCOPY_RUN at the end, found command 5/,
    ],
    [
      "a package in a package",
      { packaged: Uint8Array.of(8, 0, 4, 0, 0, 8, 0, 7, 0, 4, 0, 0, 0, 0) },
      /POSTCOPY_RUN at the end, found command 7/,
    ],
    [
      "a device without an end",
      { packaged: packageOf(DEVICES).subarray(0, 30) },
      /end of a device section was not found/,
    ],
  ];

  test.each(refusals)("refuses %s, and has begun nothing", async (_, spec, message) => {
    const host = toy();
    await expect(load(host, streamOf(spec))).rejects.toThrow(message);
    await expect(load(toy(), streamOf(spec))).rejects.toThrow(FormatError);
    expect(host.devices).toEqual([]);
    // Nothing of it is missing: no guest can wait for it.
    expect(host.memory.blocks.every(({ missing }) => missing.every((one) => one === 0))).toBe(true);
  });

  test("refuses a source that cannot be asked", async () => {
    await expect(loadHostFromStream(toy(), sourceOf(streamOf()))).rejects.toThrow(/goes both ways/);
  });

  test("a machine that cannot wait for pages says so, and only when it has to", async () => {
    const host = Object.defineProperty(toy(), "postcopy", { value: undefined });
    const failure = load(host, streamOf());
    await expect(failure).rejects.toThrow(MachineError);
    await expect(failure).rejects.toThrow(/cannot run while pages are missing.*do not start postcopy/);
    expect(new FakeHost()).not.toHaveProperty("postcopy");
  });

  test("devices that do not fit end it before anything is missing; that cannot be loaded, while the source knows", async () => {
    const misfit = toy();
    misfit.checkDevices = () => {
      throw new FormatError("unsupported", "another version");
    };
    await expect(load(misfit, streamOf())).rejects.toThrow("another version");
    expect(misfit.memory.hasEnded).toBe(false);

    const broken = toy();
    broken.loadDevices = () => {
      throw new MachineError("io", "no such device");
    };
    const states: string[] = [];
    const returnPath = new Collector();
    const events = { onStatus: (status: string) => void states.push(status) };
    await expect(
      load(broken, streamOf({ end: false }), { returnPath, postcopy: { events } }),
    ).rejects.toThrow("no such device");
    expect(states.at(-1)).toBe("failed");
    // PING 0x42 is what tells a source that its guest has gone, a SHUT with an error that it never will.
    expect(returnPath.bytes.includes(Buffer.of(0, 2, 0, 4, 0, 0, 0, 0x42))).toBe(false);
    expect([...returnPath.bytes.subarray(-8)]).toEqual([0, 1, 0, 4, 0, 0, 0, 1]);
  });

  test.each([
    ["lets it go on there: it never runs here", true],
    ["has given it away: it runs here once the connection is mended", false],
  ])("broken before it was told that the guest is here, a source that %s", async (_, keepsGuest) => {
    const host = toy();
    const pipe = bytePipe(() => Infinity);
    const packaged = Buffer.from(packageOf(DEVICES));
    // PING 0x42 becomes another one.
    if (!keepsGuest) packaged.set([5], packaged.lastIndexOf(0x42));
    await pipe.near.write(streamOf({ end: false, packaged }));
    host.loadDevices = () => pipe.breakOff();
    let runs = 0;
    const states: string[] = [];
    const loading = loadHostFromStream(host, pipe.far, {
      returnPath: pipe.far,
      postcopy: {
        onRun: () => void (runs += 1),
        onListening: (listening) => {
          void expect
            .poll(() => states, { interval: 1 })
            .toContain("postcopy-paused")
            .then(() => listening.abort(new Error("enough")));
        },
        events: { onStatus: (status) => void states.push(status) },
      },
    });
    await expect(loading).rejects.toThrow(keepsGuest ? /connection|pipe/ : /the source cannot have it back/);
    expect(states).toEqual(
      keepsGuest ? ["postcopy-active", "failed"] : ["postcopy-active", "postcopy-paused", "failed"],
    );
    expect(runs).toBe(keepsGuest ? 0 : 1);
  });

  test("cancelled while the guest runs, it says that the guest is lost", async () => {
    const cancel = new AbortController();
    const pipe = bytePipe(() => Infinity);
    await pipe.near.write(streamOf({ end: false }));
    const loading = loadHostFromStream(toy(), pipe.far, {
      returnPath: new Collector(),
      signal: cancel.signal,
      postcopy: { onRun: () => void setImmediate(() => cancel.abort()) },
    });
    await expect(loading).rejects.toThrow(/the source cannot have it back/);
  });
});
