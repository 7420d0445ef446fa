import { spawnSync } from "node:child_process";
import zlib from "node:zlib";

import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";

import {
  createPacketCompressor,
  createPacketDecompressor,
  PACKET_COMPRESSION_LEVELS,
} from "../../../../src/engine/multifd/compression/create-packet-compression.js";
import {
  createLibzstdCompressor,
  createLibzstdDecompressor,
} from "../../../../src/engine/multifd/compression/libzstd-packets.js";
import { ZstdContext } from "../../../../src/engine/multifd/compression/libzstd.js";
import type {
  PacketCompressor,
  PacketDecompressor,
} from "../../../../src/engine/multifd/compression/packet-compression.js";
import { CancelledError, FormatError, UsageError } from "../../../../src/errors/index.js";
import { Random } from "../../../support/random.js";
import { reportMissing } from "../../../support/missing.js";

const PAGE = 4096;
const LARGEST = 128 * PAGE;

interface Codec {
  readonly name: string;
  compressor(level?: number): PacketCompressor;
  decompressor(): PacketDecompressor;
}

const zlibCodec: Codec = {
  name: "zlib",
  compressor: (level) => createPacketCompressor("zlib", level),
  decompressor: () => createPacketDecompressor("zlib"),
};
const zstdCodec: Codec = {
  name: "zstd, as this Node has it",
  compressor: (level) => createPacketCompressor("zstd", level),
  decompressor: () => createPacketDecompressor("zstd"),
};
const libzstdCodec: Codec = {
  name: "zstd of the system's library",
  compressor: (level) => createLibzstdCompressor(level ?? 1),
  decompressor: () => createLibzstdDecompressor(),
};
const libzstdMissing = missingLibzstd();
const zstdMissing = "createZstdCompress" in zlib ? undefined : libzstdMissing;
const codecs = [
  zlibCodec,
  ...(zstdMissing === undefined ? [zstdCodec] : []),
  ...(libzstdMissing === undefined ? [libzstdCodec] : []),
];
if (libzstdMissing !== undefined) {
  reportMissing({ title: "packets through libzstd", reason: libzstdMissing, subject: "libzstd" });
}

const open: { close(): void }[] = [];
afterEach(() => {
  for (const one of open.splice(0)) one.close();
});

describe.each(codecs)("packets of $name", (codec) => {
  test("any packets, of any content, come back as they were", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(packet, { minLength: 1, maxLength: 12 }),
        fc.nat(9),
        async (shapes, level) => {
          const [compressor, decompressor] = pair(codec, level);
          for (const shape of shapes) await passes(compressor, decompressor, pages(shape));
          close();
        },
      ),
      { numRuns: 40 },
    );
  });

  test("every level", async () => {
    const { highest } = PACKET_COMPRESSION_LEVELS[codec === zlibCodec ? "zlib" : "zstd"];
    for (let level = 0; level <= highest; level++) {
      const [compressor, decompressor] = pair(codec, level);
      for (let seed = 0; seed < 3; seed++) {
        await passes(compressor, decompressor, pages({ kind: "mixed", count: 64, seed }));
      }
      close();
    }
  });

  test("what was sent before helps: a packet sent again costs almost nothing within the window", async () => {
    const [compressor, decompressor] = pair(codec);
    const data = pages({ kind: "random", count: 4, seed: 5 });
    expect(await passes(compressor, decompressor, data)).toBeGreaterThan(data.length);
    expect(await passes(compressor, decompressor, data)).toBeLessThan(data.length / 10);
  });

  test("data that does not compress stays far below the two packets that QEMU's buffer holds", async () => {
    const [compressor, decompressor] = pair(codec);
    for (let seed = 0; seed < 4; seed++) {
      const size = await passes(compressor, decompressor, pages({ kind: "random", count: 128, seed }));
      expect(size).toBeLessThan(LARGEST * 1.01);
    }
  });

  test("large packets and large pages", async () => {
    const [compressor, decompressor] = pair(codec);
    await passes(compressor, decompressor, pages({ kind: "mixed", count: 2048, seed: 1 }));
    await passes(compressor, decompressor, pages({ kind: "zero", count: 2048, seed: 1 }));
  });

  test("a packet without pages has no data and leaves the stream alone", async () => {
    const [compressor, decompressor] = pair(codec);
    for (const count of [0, 1, 0, 3]) {
      await passes(compressor, decompressor, pages({ kind: "mixed", count, seed: count }));
    }
    expect(await compressor.compress(new Uint8Array())).toHaveLength(0);
  });

  test("two channels at the same time do not mix", async () => {
    const channels = [pair(codec), pair(codec)] as const;
    const rounds = channels.map(async ([compressor, decompressor], channel) => {
      for (let seed = 0; seed < 20; seed++) {
        const data = pages({ kind: "mixed", count: 32, seed: seed * 2 + channel });
        await passes(compressor, decompressor, data);
      }
    });
    await Promise.all(rounds);
  });

  test("output lands in a part of a larger memory and nowhere else", async () => {
    const [compressor, decompressor] = pair(codec);
    const data = pages({ kind: "mixed", count: 3, seed: 2 });
    const memory = new Uint8Array(new SharedArrayBuffer(data.length + 200)).fill(0xee);
    await decompressor.decompress(await compressor.compress(data), memory.subarray(100, 100 + data.length));
    expect(Buffer.from(memory.subarray(100, -100)).equals(data)).toBe(true);
    expect([...memory.subarray(0, 100), ...memory.subarray(-100)].every((byte) => byte === 0xee)).toBe(true);
  });

  test.each([1, PAGE, LARGEST])("a packet that holds %i bytes too many is refused", async (surplus) => {
    const [compressor, decompressor] = pair(codec);
    const data = pages({ kind: "mixed", count: 256, seed: 3 });
    const packed = await compressor.compress(data);
    const output = new Uint8Array(data.length - surplus);
    await refuses(decompressor, packed, output, "malformed", /holds more than its pages/);
  });

  test.each([1, PAGE])("a packet that holds %i bytes too few is refused", async (missing) => {
    const [compressor, decompressor] = pair(codec);
    const data = pages({ kind: "mixed", count: 16, seed: 3 });
    const packed = await compressor.compress(data);
    const output = new Uint8Array(data.length + missing);
    await refuses(decompressor, packed, output, "truncated", /holds less than its pages/);
  });

  test("a packet that needs bytes of the next is refused, wherever it is cut", async () => {
    const data = pages({ kind: "random", count: 2, seed: 4 });
    const packed = await keep(codec.compressor()).compress(data);
    for (const length of [0, 1, 7, 100, packed.length >> 1, packed.length - 20]) {
      const decompressor = keep(codec.decompressor());
      await refuses(
        decompressor,
        packed.subarray(0, length),
        new Uint8Array(data.length),
        "truncated",
        /less/,
      );
    }
  });

  test("data without pages, and pages without data", async () => {
    await refuses(keep(codec.decompressor()), Uint8Array.of(1), new Uint8Array(), "malformed", /more/);
    await refuses(keep(codec.decompressor()), new Uint8Array(), new Uint8Array(PAGE), "truncated", /less/);
  });

  test("a packet that would become 256 MiB is given up at its first piece too many", async () => {
    const compressor = keep(codec.compressor());
    const bomb = Buffer.concat([await compressor.compress(new Uint8Array(256 << 20))]);
    expect(bomb.length).toBeLessThan(2 << 20);
    const decompressor = keep(codec.decompressor());
    const before = process.memoryUsage().arrayBuffers;
    await refuses(decompressor, bomb, new Uint8Array(PAGE), "malformed", /more/);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 << 20);
  });

  test("damage is refused, or gives other bytes; never a crash, never another error", async () => {
    const data = pages({ kind: "mixed", count: 8, seed: 6 });
    const packed = Buffer.from(await keep(codec.compressor()).compress(data));
    const random = new Random(7);
    let refused = 0;
    for (let run = 0; run < 200; run++) {
      const bad = Buffer.from(packed);
      const place = run < 8 ? run : random.below(bad.length);
      bad[place]! ^= 1 << random.below(8);
      const decompressor = keep(codec.decompressor());
      const error = await decompressor.decompress(bad, new Uint8Array(data.length)).catch((e: unknown) => e);
      if (error !== undefined) {
        refused += 1;
        expect(error).toBeInstanceOf(FormatError);
        expect((error as Error).message).toMatch(/^A compressed packet /);
      }
      close();
    }
    expect(refused).toBeGreaterThan(20);
  });

  test("what is no such stream is refused, and nothing is read after it", async () => {
    const decompressor = keep(codec.decompressor());
    const text = Buffer.from("#!/bin/sh\nexec true\n".repeat(20));
    const error = await refuses(decompressor, text, new Uint8Array(PAGE), "malformed", /is damaged: /);
    const good = await keep(codec.compressor()).compress(new Uint8Array(PAGE));
    await expect(decompressor.decompress(good, new Uint8Array(PAGE))).rejects.toBe(error);
  });

  test("a stream that ended is refused, at the latest with the next packet", async () => {
    const [compressor, decompressor] = pair(codec);
    const data = pages({ kind: "mixed", count: 2, seed: 8 });
    const first = Buffer.from(await compressor.compress(data));
    const ended = Buffer.concat([first, end(codec, data)]);
    const again = await keep(codec.compressor()).compress(data);
    const output = new Uint8Array(data.length);
    const both = decompressor.decompress(ended, output).then(() => decompressor.decompress(again, output));
    await expect(both).rejects.toThrow(/ends its channel's compressed stream/);
    // And right away when something stands behind the end.
    const other = keep(codec.decompressor());
    const trailing = Buffer.concat([ended, again]);
    await refuses(other, trailing, output, "malformed", /ends its channel's compressed stream/);
  });

  test("closed in the middle of a packet, the packet is cancelled and nothing comes after it", async () => {
    const [compressor, decompressor] = pair(codec);
    const data = pages({ kind: "mixed", count: 128, seed: 9 });
    const packed = Buffer.from(await compressor.compress(data));
    const compressing = compressor.compress(data);
    compressor.close();
    await expect(compressing).rejects.toThrow(CancelledError);
    await expect(compressor.compress(data)).rejects.toThrow(CancelledError);
    const decompressing = decompressor.decompress(packed, new Uint8Array(data.length));
    decompressor.close();
    await expect(decompressing).rejects.toThrow(CancelledError);
    await expect(decompressor.decompress(packed, data)).rejects.toThrow(CancelledError);
    await expect(compressor.compress(new Uint8Array())).rejects.toThrow(CancelledError);
    await expect(decompressor.decompress(new Uint8Array(), new Uint8Array())).rejects.toThrow(CancelledError);
    decompressor.close();
  });
});

test.each(["zlib", "zstd"] as const)("levels that %s does not have", (method) => {
  for (const level of [-1, 1.5, Number.NaN, PACKET_COMPRESSION_LEVELS[method].highest + 1]) {
    expect(() => createPacketCompressor(method, level)).toThrow(UsageError);
  }
});

test("where there is no libzstd, it is said what to do", async () => {
  vi.resetModules();
  // Another system has the library under another name, which is not found here.
  vi.spyOn(process, "platform", "get").mockReturnValue(process.platform === "darwin" ? "linux" : "darwin");
  const fresh = await import("../../../../src/engine/multifd/compression/libzstd-packets.js");
  vi.restoreAllMocks();
  for (const create of [() => fresh.createLibzstdCompressor(1), () => fresh.createLibzstdDecompressor()]) {
    expect(create).toThrow(/use Node 22.15 or newer, or install/);
    expect(create).toThrow(expect.objectContaining({ name: "MachineError", code: "not-capable" }));
  }
});

test("zlib as QEMU sends and reads it: page by page, flushed with the last", async () => {
  const { compress, decompress } = python();
  const compressor = keep(createPacketCompressor("zlib"));
  const decompressor = keep(createPacketDecompressor("zlib"));
  const packets = [1, 128, 3, 77, 128].map((count, seed) => pages({ kind: "mixed", count, seed }));
  const packed: Uint8Array[] = [];
  for (const data of packets) packed.push(Buffer.from(await compressor.compress(data)));
  expect(Buffer.concat(decompress(packed, packets)).equals(Buffer.concat(packets))).toBe(true);
  for (const [index, data] of compress(packets).entries()) {
    const output = new Uint8Array(packets[index]!.length);
    await decompressor.decompress(data, output);
    expect(Buffer.from(output).equals(packets[index]!)).toBe(true);
  }
});

describe.runIf(libzstdMissing === undefined)("zstd", () => {
  test("each packet gives its pages one after the other, as QEMU's receiver asks for them", async () => {
    const compressor = keep(createPacketCompressor("zstd"));
    const receiver = keep(ZstdContext.forDecompression());
    for (const [seed, count] of [1, 128, 3, 77, 128, 32].entries()) {
      const data = pages({ kind: seed % 2 === 0 ? "mixed" : "random", count, seed });
      const packed = await compressor.compress(data);
      let taken = 0;
      for (let at = 0; at < data.length; at += PAGE) {
        const page = new Uint8Array(PAGE);
        const step = await receiver.step(packed.subarray(taken), page);
        expect(step.made).toBe(PAGE);
        expect(Number(step.result)).toBeGreaterThan(0);
        expect(Buffer.from(page).equals(data.subarray(at, at + PAGE))).toBe(true);
        taken += step.taken;
      }
      expect(taken).toBe(packed.length);
    }
  });

  test("Node's and the library's read each other", async () => {
    for (const [from, to] of [
      [zstdCodec, libzstdCodec],
      [libzstdCodec, zstdCodec],
    ] as const) {
      const [compressor, decompressor] = [keep(from.compressor(3)), keep(to.decompressor())];
      for (let seed = 0; seed < 8; seed++) {
        await passes(compressor, decompressor, pages({ kind: "mixed", count: 100, seed }));
      }
    }
  });

  test.each([zstdCodec, libzstdCodec])("$name: the program zstd reads it", async (codec) => {
    const compressor = keep(codec.compressor());
    const data = [1, 2, 3].map((seed) => pages({ kind: "mixed", count: 128, seed }));
    const packed: Uint8Array[] = [];
    for (const one of data) packed.push(Buffer.from(await compressor.compress(one)));
    const whole = Buffer.concat([...packed, end(codec, new Uint8Array())]);
    const { status, stdout } = spawnSync("zstd", ["-dc"], { input: whole, maxBuffer: 16 << 20 });
    expect(status).toBe(0);
    expect(stdout.equals(Buffer.concat(data))).toBe(true);
  });

  test.each([zstdCodec, libzstdCodec])("$name: no window larger than that of level 20", async (codec) => {
    // A frame's head: the magic, no content size, a window of 2^26 bytes; then a raw block of four bytes.
    const head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (26 - 10) << 3, 4 << 3, 0, 0, 1, 2, 3, 4];
    const large = Uint8Array.from(head);
    await refuses(keep(codec.decompressor()), large, new Uint8Array(4), "limit-exceeded", /level 20/);
    const allowed = Uint8Array.from(head.with(5, (25 - 10) << 3));
    const output = new Uint8Array(4);
    await keep(codec.decompressor()).decompress(allowed, output);
    expect([...output]).toEqual([1, 2, 3, 4]);
  });
});

/** A packet's shape: what its pages hold, and how many there are. */
const packet = fc.record({
  kind: fc.constantFrom("zero", "random", "mixed"),
  count: fc.oneof(fc.nat(8), fc.nat(128)),
  seed: fc.nat(),
});

function pages(shape: { kind: "zero" | "random" | "mixed"; count: number; seed: number }): Uint8Array {
  const random = new Random(shape.seed);
  const data = new Uint8Array(shape.count * PAGE);
  for (let at = 0; at < data.length; at += PAGE) {
    const page = data.subarray(at, at + PAGE);
    const kind = shape.kind === "mixed" ? random.pick(["zero", "random", "text", "sparse"]) : shape.kind;
    if (kind === "random") for (let i = 0; i < PAGE; i++) page[i] = random.below(256);
    else if (kind === "text")
      for (let i = 0; i < PAGE; i++) page[i] = 97 + ((i * (1 + random.below(2))) % 23);
    else if (kind === "sparse") for (let i = 0; i < 20; i++) page[random.below(PAGE)] = random.below(256);
  }
  return data;
}

function keep<Kept extends { close(): void }>(one: Kept): Kept {
  open.push(one);
  return one;
}

function close(): void {
  for (const one of open.splice(0)) one.close();
}

function pair(codec: Codec, level?: number): [PacketCompressor, PacketDecompressor] {
  return [keep(codec.compressor(level)), keep(codec.decompressor())];
}

/** @returns The packed size. */
async function passes(from: PacketCompressor, to: PacketDecompressor, data: Uint8Array): Promise<number> {
  const packed = await from.compress(data);
  const output = new Uint8Array(data.length).fill(0xa5);
  await to.decompress(packed, output);
  expect(Buffer.from(output).equals(data)).toBe(true);
  return packed.length;
}

async function refuses(
  decompressor: PacketDecompressor,
  input: Uint8Array,
  output: Uint8Array,
  code: string,
  message: RegExp,
): Promise<unknown> {
  const error = await decompressor.decompress(input, output).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(FormatError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) as string });
  return error;
}

/** What ends a stream: an empty last block, and for zlib the checksum of all that was in it. */
function end(codec: Codec, data: Uint8Array): Buffer {
  if (codec !== zlibCodec) return Buffer.of(1, 0, 0);
  const checksum = zlib.deflateSync(data).subarray(-4);
  return Buffer.concat([Buffer.of(1, 0, 0, 0xff, 0xff), checksum]);
}

function missingLibzstd(): string | undefined {
  try {
    ZstdContext.forDecompression().close();
    return undefined;
  } catch (error) {
    return String((error as Error).cause);
  }
}

/** Python's zlib, driven as QEMU's multifd code drives the C library. */
function python(): {
  compress: (packets: readonly Uint8Array[]) => Uint8Array[];
  decompress: (packed: readonly Uint8Array[], like: readonly Uint8Array[]) => Uint8Array[];
} {
  const run = (script: string, runs: readonly Uint8Array[], counts: readonly number[]) => {
    const input = Buffer.concat([lengths(runs.map((one) => one.length)), lengths(counts), ...runs]);
    const program = `import sys, struct, zlib\n${script}`;
    const { status, stdout, stderr } = spawnSync("python3", ["-c", program, String(runs.length)], {
      input,
      maxBuffer: 64 << 20,
    });
    if (status !== 0) throw new Error(stderr.toString());
    const results: Uint8Array[] = [];
    for (let at = 0; at < stdout.length;) {
      const length = stdout.readUInt32LE(at);
      results.push(stdout.subarray(at + 4, at + 4 + length));
      at += 4 + length;
    }
    return results;
  };
  const head = `
count = int(sys.argv[1])
read = sys.stdin.buffer.read
sizes = struct.unpack("<%dI" % count, read(4 * count))
pages = struct.unpack("<%dI" % count, read(4 * count))
def put(data):
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data)
`;
  const compress = `${head}
stream = zlib.compressobj(1)
for size, number in zip(sizes, pages):
    data = b"".join(stream.compress(read(${PAGE})) for page in range(number))
    put(data + stream.flush(zlib.Z_SYNC_FLUSH))
`;
  const decompress = `${head}
stream = zlib.decompressobj()
for size, number in zip(sizes, pages):
    rest, out = read(size), b""
    for page in range(number):
        data = stream.decompress(rest, ${PAGE})
        assert len(data) == ${PAGE}, "a page is not full"
        rest, out = stream.unconsumed_tail, out + data
    assert stream.decompress(rest, 1) == b"" and not stream.unconsumed_tail, "bytes are left"
    put(out)
`;
  const counts = (like: readonly Uint8Array[]) => like.map((one) => one.length / PAGE);
  return {
    compress: (packets) => run(compress, packets, counts(packets)),
    decompress: (packed, like) => run(decompress, packed, counts(like)),
  };
}

function lengths(values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32LE(value, index * 4);
  return bytes;
}
