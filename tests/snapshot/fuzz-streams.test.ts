/**
 * Damaged streams, libvirt images, packed images and descriptions, made at random from sound ones. Whatever comes out,
 * what reads them succeeds or throws a RamportError, soon, and in little memory; a promise that nobody waits for would fail
 * the run by itself. `RAMPORT_FUZZ_SEED` repeats a run, `RAMPORT_FUZZ_SECONDS` makes it longer.
 */

import { readFileSync } from "node:fs";
import { deflateSync, gzipSync } from "node:zlib";
import { expect, test } from "vitest";

import { MappedRamWriter, type PositionedFile, receiveMigration } from "../../src/engine/index.js";
import { RamportError } from "../../src/errors/index.js";
import { inspectSnapshot, openSnapshot, snapshotInfo, verifySnapshot } from "../../src/snapshot/index.js";
import {
  ByteWriter,
  decodeVmstate,
  type DeviceSection,
  encodeLibvirtSaveHeader,
  LIBVIRT_HEADER_BYTES,
  type LibvirtFormat,
  matchLayouts,
  parseVmstateLayout,
  RamFlag,
  searchStreamTail,
} from "../../src/wire/index.js";
import { sourceOf } from "../support/byte-channels.js";
import { corpus, corpusPath } from "../support/corpus.js";
import { buildStream } from "../support/stream-builder.js";
import { buildSnapshot, MemorySource } from "./build-snapshot.js";
import { Random } from "../support/random.js";
import { cpuTimeMs } from "../support/cpu-time.js";

const SECONDS = Number(process.env.RAMPORT_FUZZ_SECONDS ?? "5");
/** Fixed: a run that fails fails again. */
const SEED = Number(process.env.RAMPORT_FUZZ_SEED ?? "20261120") >>> 0;
/** Of processor time. */
const SLOWEST_MS = 1000;
/** Also where a machine is so busy that the time is over before. */
const FEWEST_RUNS = 20;
const MOST_GROWTH_BYTES = 1 << 29;
/** What a single device may yield here: the product's own limit is that of a reader's patience. */
const MAX_NODES = 200_000;

/** Sound bytes, and where damage says most; elsewhere are pages. */
interface Base {
  readonly bytes: Buffer;
  readonly fields: readonly Field[];
}

interface Field {
  readonly start: number;
  readonly end: number;
}

const EXTREMES = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0xffffn,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 44n,
  2n ** 53n,
  2n ** 64n - 1n,
];

function mutate({ bytes: sound, fields }: Base, random: Random): Buffer {
  let bytes = Buffer.from(sound);
  for (let count = 1 + random.below(3); count > 0 && bytes.length > 64; count--) {
    const field = random.pick(fields);
    const at = Math.min(field.start + random.below(Math.max(1, field.end - field.start)), bytes.length - 8);
    bytes = mutateAt(bytes, at, random);
  }
  return bytes;
}

function mutateAt(bytes: Buffer<ArrayBuffer>, at: number, random: Random): Buffer<ArrayBuffer> {
  const extreme = random.pick(EXTREMES);
  switch (random.below(9)) {
    case 0:
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
      return bytes;
    case 1:
      bytes[at] = random.pick([0, 1, 2, 3, 4, 6, 7, 8, 0x7e, 0xff]);
      return bytes;
    case 2:
      return bytes.subarray(0, at);
    case 3:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random.pick([1, 2, 5, 8, 4096]))]);
    case 4: {
      const extra = Buffer.alloc(random.pick([1, 2, 5, 8, 4096]), random.below(256));
      return Buffer.concat([bytes.subarray(0, at), extra, bytes.subarray(at)]);
    }
    case 5:
      bytes.writeUInt32BE(Number(extreme & 0xffff_ffffn), at);
      return bytes;
    case 6:
      bytes.writeUInt32LE(Number(extreme & 0xffff_ffffn), at);
      return bytes;
    case 7:
      bytes.writeBigUInt64BE(extreme, at);
      return bytes;
    default: {
      // A piece of its own, somewhere else: what is right in the wrong place.
      const from = random.below(bytes.length);
      const piece = Buffer.from(bytes.subarray(from, from + 1 + random.below(200)));
      return Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at)]);
    }
  }
}

/** A file in memory that only has what was written: damage can ask for places far away. */
class SparseMemory implements PositionedFile {
  readonly #pieces = new Map<number, Uint8Array>();
  sizeBytes = 0;

  readAt(target: Uint8Array, position: number): number {
    const count = Math.max(0, Math.min(target.length, this.sizeBytes - position));
    target.fill(0, 0, count);
    this.#each(position, count, (place, from, to, at) => {
      const piece = this.#pieces.get(place);
      if (piece !== undefined) target.set(piece.subarray(from, to), at);
    });
    return count;
  }

  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    this.sizeBytes = Math.max(this.sizeBytes, position + length);
    this.#each(position, length, (place, from, to, done) => {
      const part = bytes.subarray(at + done, at + done + to - from);
      let piece = this.#pieces.get(place);
      if (piece === undefined) {
        // Bitmaps of a guest that claims to be large are long and empty.
        if (part.every((byte) => byte === 0)) return;
        piece = new Uint8Array(PIECE_BYTES);
        this.#pieces.set(place, piece);
      }
      piece.set(part, from);
    });
  }

  zeroAt(position: number, length: number): void {
    this.sizeBytes = Math.max(this.sizeBytes, position + length);
    this.#each(position, length, (place, from, to) => this.#pieces.get(place)?.fill(0, from, to));
  }

  #each(
    position: number,
    length: number,
    action: (place: number, from: number, to: number, done: number) => void,
  ): void {
    for (let done = 0; done < length;) {
      const from = (position + done) % PIECE_BYTES;
      const to = Math.min(PIECE_BYTES, from + length - done);
      action(Math.floor((position + done) / PIECE_BYTES), from, to, done);
      done += to - from;
    }
  }
}

const PIECE_BYTES = 1 << 16;

async function readAll(bytes: Uint8Array): Promise<void> {
  const snapshot = await openSnapshot(new MemorySource(bytes), { tolerant: true });
  try {
    for (const block of snapshot.blocks) {
      if (block.leftOut || block.pageCount === 0) continue;
      snapshot.readPages(block, 0, new Uint8Array(Math.min(16, block.pageCount) * block.pageSize));
      let runs = 0;
      for (const run of snapshot.presentRuns(block)) if (run.end > run.start && ++runs === 1000) break;
    }
    for (const section of snapshot.sections)
      if (section.payloadOffset !== undefined) snapshot.readSection(section);
  } finally {
    snapshot.close();
  }
}

async function inspectAll(bytes: Uint8Array): Promise<void> {
  const inspection = await inspectSnapshot(new MemorySource(bytes));
  try {
    for (const device of inspection.devices) {
      const { name, payloadOffset } = device;
      const source = { section: name, payload: device.payload(), payloadOffset, maxNodes: MAX_NODES };
      for (const event of decodeVmstate(device.layout, source)) if (event.kind === "end") continue;
    }
  } finally {
    inspection.close();
  }
}

type Operation = readonly [name: string, run: (bytes: Uint8Array) => unknown];

const READING: readonly Operation[] = [
  ["info", (bytes) => snapshotInfo(new MemorySource(bytes))],
  ["verify", (bytes) => verifySnapshot(new MemorySource(bytes))],
  ["read", readAll],
];
/** A stream comes in pieces of an odd size: records are cut in the middle. */
const READ_BYTES = 8191;
const STREAMS: readonly Operation[] = [
  ...READING,
  ["inspect", inspectAll],
  [
    "receive",
    (bytes) => receiveMigration(sourceOf(bytes, READ_BYTES), new MappedRamWriter(new SparseMemory())),
  ],
];

/** Damages and reads until the time is over. */
async function fuzz(
  name: string,
  make: (random: Random) => Uint8Array,
  operations: readonly Operation[],
): Promise<void> {
  console.log(`fuzz of ${name}: RAMPORT_FUZZ_SEED=${SEED}`);
  const random = new Random(SEED);
  const before = process.memoryUsage().rss;
  const deadline = performance.now() + SECONDS * 1000;
  let peak = before;
  let runs = 0;
  for (; performance.now() < deadline || runs < FEWEST_RUNS; runs++) {
    const bytes = make(random);
    for (const [what, run] of operations) {
      const where = `${what} of ${name}, run ${runs} of seed ${SEED}`;
      const startMs = cpuTimeMs();
      try {
        await run(bytes);
      } catch (error) {
        if (error instanceof RamportError) continue;
        throw new Error(`Something else than a RamportError came out (${where})`, { cause: error });
      } finally {
        expect(cpuTimeMs() - startMs, `${where} took too long`).toBeLessThan(SLOWEST_MS);
      }
    }
    if (runs % 64 === 0) peak = Math.max(peak, process.memoryUsage().rss);
  }
  expect(peak - before).toBeLessThan(MOST_GROWTH_BYTES);
}

/** What each kind of stream is built from: the parts of a built one, pages apart. */
function streamBases(): Base[] {
  const built = [
    buildStream(),
    buildStream({ early: true, returnPath: true, deviceBytes: 300 }),
    buildStream({ capabilities: ["x-ignore-shared"] }),
  ].map(({ bytes, places }) => ({
    bytes,
    fields: [
      { start: 0, end: places.firstPage + 16 },
      { start: places.secondPage, end: places.secondPage + 9 },
      { start: places.partEnd, end: bytes.length },
    ],
  }));
  return [...built, specialPages(), withoutFooters(built[0]!.bytes), ...realStreams()];
}

/** Pages as differences and compressed, where a built stream has zero pages. */
function specialPages(): Base {
  const { bytes, places } = buildStream({ pages: [{ block: "pc.ram", page: 0, fill: 7 }] });
  const delta = Uint8Array.of(16, 3, 1, 2, 3, 0x80, 0x20 - 1, 1, 9);
  const packed = deflateSync(Buffer.alloc(4096, "abc"));
  const records = new ByteWriter()
    .u64(RamFlag.XBZRLE | RamFlag.CONTINUE)
    .u8(1)
    .u16(delta.length)
    .raw(delta)
    .u64(4096 + (RamFlag.COMPRESS_PAGE | RamFlag.CONTINUE))
    .u32(packed.length)
    .raw(packed)
    .finish();
  const { partEnd } = places;
  return {
    bytes: Buffer.concat([bytes.subarray(0, partEnd), records, bytes.subarray(partEnd)]),
    fields: [
      { start: partEnd, end: partEnd + records.length + 40 },
      { start: places.ram, end: places.firstPage + 16 },
    ],
  };
}

/** As a machine type of QEMU 2.3 sends it: neither a configuration nor footers. */
function withoutFooters(stream: Buffer): Base {
  const { places } = buildStream();
  const footers = [places.part, places.end, places.device, places.eof].map((end) => end - 5);
  const pieces: Buffer[] = [stream.subarray(0, 8)];
  let start = places.commands;
  for (const footer of footers) {
    pieces.push(stream.subarray(start, footer));
    start = footer + 5;
  }
  const bytes = Buffer.concat([...pieces, stream.subarray(start)]);
  return {
    bytes,
    fields: [
      { start: 0, end: 120 },
      { start: bytes.length - 400, end: bytes.length },
    ],
  };
}

/** The corpus's smallest: its head, and its end with the devices. */
function realStreams(): Base[] {
  const small = (corpus?.files ?? []).filter(
    ({ format, container, bytes, streamOffset }) =>
      format === "stream" && container === "qemu" && bytes < 1.5e6 && streamOffset === 0,
  );
  return small.slice(0, 3).map((facts) => {
    const bytes = readFileSync(corpusPath(facts));
    const fields = [
      { start: 0, end: 400 },
      { start: Math.max(0, bytes.length - 60_000), end: bytes.length },
    ];
    return { bytes, fields };
  });
}

const XML = "<domain type='kvm'><!-- a <name> --><name>v&amp;m &#x41;</name><devices/></domain>";

function imageHeader(format: LibvirtFormat): Buffer {
  const header = encodeLibvirtSaveHeader({
    ...{ byteOrder: "little", complete: true, version: 2, wasRunning: true, format },
    ...{ xml: XML, cookie: "<cookie/>", dataBytes: 300 },
  });
  return Buffer.from(header);
}

function imageBases(): Base[] {
  const end = LIBVIRT_HEADER_BYTES + 300;
  const header = { start: 16, end: 40 };
  const texts = { start: LIBVIRT_HEADER_BYTES, end };
  const raw = Buffer.concat([imageHeader("raw"), buildStream().bytes]);
  const { bytes: sparse } = buildSnapshot(end);
  sparse.set(imageHeader("sparse"));
  const packed = Buffer.concat([imageHeader("gzip"), gzipSync(buildStream().bytes)]);
  return [
    { bytes: raw, fields: [header, header, texts, { start: end, end: end + 160 }] },
    { bytes: Buffer.from(sparse), fields: [header, texts, { start: end, end: end + 200 }] },
    { bytes: packed, fields: [header, texts, { start: end, end: packed.length }] },
  ];
}

const TIMEOUT_MS = SECONDS * 1000 + 30_000;

test(
  `classic streams (seed ${SEED}, ${SECONDS} s)`,
  async () => {
    const bases = streamBases();
    await fuzz("streams", (random) => mutate(random.pick(bases), random), STREAMS);
  },
  TIMEOUT_MS,
);

test(
  `libvirt images (seed ${SEED}, ${SECONDS} s)`,
  async () => {
    const bases = imageBases();
    await fuzz("libvirt images", (random) => mutate(random.pick(bases), random), READING);
  },
  TIMEOUT_MS,
);

test(
  `packed images (seed ${SEED}, ${SECONDS} s)`,
  async () => {
    const bases = streamBases().filter(({ bytes }) => bytes.length < 100_000);
    const header = imageHeader("gzip");
    const make = (random: Random): Uint8Array => {
      // Damage inside reaches the parsers, damage outside the unpacker.
      const packed = gzipSync(mutate(random.pick(bases), random), { level: 1 });
      const image = Buffer.concat([header, packed]);
      if (random.below(4) > 0) return image;
      return mutate({ bytes: image, fields: [{ start: header.length, end: image.length }] }, random);
    };
    await fuzz("packed images", make, [...READING, ["inspect", inspectAll]]);
  },
  TIMEOUT_MS,
);

/** A description, and the sections that it describes. */
interface Described {
  readonly text: Buffer;
  readonly sections: readonly DeviceSection[];
  readonly payloads: readonly Uint8Array[];
}

function describedOf(bytes: Uint8Array, streamOffset: number): Described {
  const read = (position: number, length: number): Uint8Array => bytes.subarray(position, position + length);
  const tail = searchStreamTail(read, bytes.length, { streamOffset });
  const sections = tail?.sections ?? [];
  return {
    text: Buffer.from(tail?.description?.text ?? ""),
    sections,
    payloads: sections.map(({ payloadOffset, payloadLength }) => read(payloadOffset, payloadLength)),
  };
}

const NUMBERS = ["0", "1", "-1", "1e9", "4294967296", "9007199254740991", "1e400", "null", '"8"', "[]", "{}"];
const TYPES = [
  "uint64",
  "int8",
  "bool",
  "cpudouble",
  "qtailq",
  "gtree",
  "struct",
  "capability",
  "unused_buffer",
  "x",
];

function mutateText(text: string, random: Random): string {
  const at = random.below(text.length);
  const after = (pattern: RegExp, value: string): string => {
    const match = pattern.exec(text.slice(at, at + 2000));
    if (match === null) return text;
    const from = at + match.index + match[0].length - (match[1] ?? "").length;
    return text.slice(0, from) + value + text.slice(from + (match[1] ?? "").length);
  };
  switch (random.below(6)) {
    case 0:
      return after(/"(?:size|array_len|instance_id|version|index)": (\d+)/, random.pick(NUMBERS));
    case 1:
      return after(/"type": "([^"]*)/, random.pick(TYPES));
    case 2:
      return after(
        /"(name|vmsd_name|fields|struct|subsections|size|array_len)/,
        random.pick(["name", "fields", "size"]),
      );
    case 3:
      return (
        text.slice(0, at) + random.pick(['"', "{", "}", "[", "]", "\\", ",", "\u{1F600}"]) + text.slice(at)
      );
    case 4:
      return text.slice(0, at) + text.slice(at + random.pick([1, 10, 100]));
    default: {
      const from = random.below(text.length);
      return text.slice(0, at) + text.slice(from, from + random.below(300)) + text.slice(at);
    }
  }
}

test(
  `descriptions and payloads (seed ${SEED}, ${SECONDS} s)`,
  async () => {
    const names = ["q72-none", "q100-tiny-exec", "q111-pc-virtio"];
    const real = (corpus?.files ?? []).filter(({ name }) => names.includes(name));
    const bases = [
      describedOf(buildStream().bytes, 0),
      ...real.map((facts) => describedOf(readFileSync(corpusPath(facts)), facts.streamOffset)),
    ];
    let current = bases[0]!;
    const make = (random: Random): Uint8Array => {
      const base = random.pick(bases);
      const payloads = base.payloads.map((payload) => {
        if (random.below(4) > 0 || payload.length < 8) return payload;
        return mutateAt(Buffer.from(payload), random.below(payload.length - 7), random);
      });
      current = { ...base, payloads };
      let text = base.text.toString();
      for (let count = 1 + random.below(4); count > 0; count--) text = mutateText(text, random);
      return Buffer.from(text);
    };
    const decode = (text: Uint8Array): void => {
      const { sections, payloads } = current;
      const layouts = matchLayouts(parseVmstateLayout(Buffer.from(text).toString(), 0), sections);
      for (const [index, layout] of layouts.entries()) {
        const { name, payloadOffset } = sections[index]!;
        const source = { section: name, payload: payloads[index]!, payloadOffset, maxNodes: MAX_NODES };
        try {
          for (const event of decodeVmstate(layout, source)) if (event.kind === "end") continue;
        } catch (error) {
          if (!(error instanceof RamportError)) throw error;
        }
      }
    };
    await fuzz("descriptions", make, [["decode", decode]]);
  },
  TIMEOUT_MS,
);
