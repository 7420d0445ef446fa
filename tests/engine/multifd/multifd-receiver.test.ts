import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "vitest";

import { FormatError } from "../../../src/errors/index.js";
import { PlacedPages } from "../../../src/engine/mapped-ram/placed-pages.js";
import { createPacketCompressor } from "../../../src/engine/multifd/compression/create-packet-compression.js";
import { MultifdReceiver } from "../../../src/engine/multifd/multifd-receiver.js";
import { packetBytes, PushedSource, syncPacket } from "../../support/multifd-packets.js";
import { Random } from "../../support/random.js";

const PAGE = 4096;
const PAGES = 512;
const BLOCKS = [
  { name: "pc.ram", usedLength: PAGES * PAGE },
  { name: "vga.vram", usedLength: 8 * PAGE },
];

/** A file whose writes of other threads end when the test says so, in an order that the seed chooses. */
class SlowFile {
  readonly bytes = Buffer.alloc(2 * PAGES * PAGE);
  readonly sizeBytes = this.bytes.length;
  readonly #random: Random;
  #pending: (() => void)[] = [];

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  get pendingWrites(): number {
    return this.#pending.length;
  }

  readAt(target: Uint8Array, position: number): number {
    target.set(this.bytes.subarray(position, position + target.length));
    return target.length;
  }

  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    this.bytes.set(bytes.subarray(at, at + length), position);
  }

  startWrite(bytes: Uint8Array, position: number): Promise<void> {
    return new Promise((resolve) => {
      this.#pending.push(() => {
        this.bytes.set(bytes, position);
        resolve();
      });
    });
  }

  zeroAt(position: number, length: number): void {
    this.bytes.fill(0, position, position + length);
  }

  /** Lets some writes happen. */
  finishSome(all = false): void {
    for (let left = this.#pending.length; left > 0; left--) {
      if (!all && this.#random.below(2) === 0) continue;
      this.#pending.splice(this.#random.below(this.#pending.length), 1)[0]?.();
    }
  }
}

function setUp(channelCount: number, seed = 1) {
  const file = new SlowFile(seed);
  const pages = new PlacedPages(
    BLOCKS.map(({ name, usedLength }, index) => ({
      name,
      place: { file, position: index * PAGES * PAGE, pageCount: usedLength / PAGE },
    })),
    PAGE,
  );
  const sources = Array.from({ length: channelCount }, () => new PushedSource());
  const failures: unknown[] = [];
  const receiver = new MultifdReceiver(
    sources.map((source, id) => ({ id, source })),
    {
      blocks: BLOCKS,
      pageSize: PAGE,
      sink: pages,
      onFailure: (error) => failures.push(error),
      onPacket: () => undefined,
    },
  );
  return { file, pages, sources, receiver, failures };
}

const pageOf = (fill: number): Buffer => Buffer.alloc(PAGE, fill);

/** Lets everything run that can, without any write coming to its end. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await setImmediate();
}

describe("MultifdReceiver", () => {
  test.each(Array.from({ length: 30 }, (_, seed) => seed))(
    "pages that come again over other channels end as they were sent last, seed %d",
    async (seed) => {
      const random = new Random(seed);
      const { file, pages, sources, receiver } = setUp(1 + random.below(5), seed);
      const model = Buffer.alloc(PAGES * PAGE);
      for (let round = 0; round < 4; round++) {
        const order = Array.from({ length: PAGES }, (_, index) => index);
        for (let left = 40; left > 0; left--) {
          // Runs of pages, each in one packet of one channel, as no page is twice in a round.
          const first = order[random.below(order.length)]!;
          const count = 1 + random.below(100);
          const run = order.filter((index) => index >= first && index < first + count).slice(0, 128);
          if (run.length === 0) continue;
          const normal: { place: number; bytes: Buffer }[] = [];
          const zero: number[] = [];
          for (const index of run) {
            order.splice(order.indexOf(index), 1);
            const fill = random.below(4) === 0 ? 0 : 1 + random.below(255);
            model.fill(fill, index * PAGE, (index + 1) * PAGE);
            // A source that does not look for zero pages sends them like all others.
            if (fill === 0 && random.below(2) === 0) zero.push(index * PAGE);
            else normal.push({ place: index * PAGE, bytes: pageOf(fill) });
          }
          // Where QEMU sorts zero pages out, it exchanges pages.
          if (random.below(2) === 0) normal.reverse();
          random.pick(sources).push(packetBytes(PAGE, { block: "pc.ram", normal, zero }));
          if (order.length === 0) break;
        }
        for (const source of sources) source.push(syncPacket(PAGE));
        let synced = false;
        const syncing = receiver.sync().then(() => (synced = true));
        while (file.pendingWrites > 0 || !(await Promise.race([syncing, setImmediate(false)]))) {
          expect(synced).toBe(false);
          file.finishSome();
        }
      }
      await receiver.finish();
      pages.finish();
      expect(file.bytes.subarray(0, model.length).equals(model)).toBe(true);
      for (let index = 0; index < PAGES; index++) {
        expect(pages.present(0)?.has(index)).toBe(model[index * PAGE] !== 0);
      }
    },
  );

  test("a channel that is synced waits for the others, and for the main channel", async () => {
    const { sources, receiver, pages } = setUp(2);
    const second = packetBytes(PAGE, { block: "pc.ram", normal: [{ place: 0, bytes: pageOf(2) }] });
    sources[0]!.push(syncPacket(PAGE), second);
    await settle();
    expect(pages.counts.normal).toBe(0);
    const syncing = receiver.sync();
    await settle();
    expect(pages.counts.normal).toBe(0);
    sources[1]!.push(syncPacket(PAGE));
    await syncing;
    await settle();
    expect(pages.counts.normal).toBe(1);
  });

  test("pages that are neighbours in the file are written at once, in whatever order they come", async () => {
    const { sources, receiver, file } = setUp(1);
    const writes: [number, number][] = [];
    const writeAt = file.writeAt.bind(file);
    file.writeAt = (bytes, at, length, position) => {
      writes.push([position / PAGE, length / PAGE]);
      writeAt(bytes, at, length, position);
    };
    const run = Array.from({ length: 10 }, (_, index) => ({ place: index * PAGE, bytes: pageOf(index + 1) }));
    const shuffled = [7, 6, 5, 0, 4, 1, 9, 2, 3, 8].map((index) => run[index]!);
    sources[0]!.push(packetBytes(PAGE, { block: "pc.ram", normal: shuffled }), syncPacket(PAGE));
    await receiver.sync();
    expect(writes).toEqual([[0, 10]]);
    expect(file.bytes.subarray(0, 10 * PAGE)).toEqual(Buffer.concat(run.map(({ bytes }) => bytes)));
  });

  test("no more slots than there are: channels wait until pages have been written", async () => {
    const { sources, receiver, file, pages } = setUp(1);
    const run = Array.from({ length: 128 }, (_, index) => ({ place: index * PAGE, bytes: pageOf(7) }));
    for (let packet = 0; packet < 40; packet++)
      sources[0]!.push(packetBytes(PAGE, { block: "pc.ram", normal: run }));
    sources[0]!.push(syncPacket(PAGE));
    await settle();
    expect(pages.counts.normal).toBe(12 * 128);
    const syncing = receiver.sync();
    for (let turn = 0; turn < 100; turn++) {
      await setImmediate();
      file.finishSome(true);
    }
    await syncing;
    expect(pages.counts.normal).toBe(40 * 128);
  });

  test.each(["zlib", "zstd"] as const)("packets of one %s stream a channel", async (compression) => {
    const { sources, receiver, file } = setUp(1);
    const compressor = createPacketCompressor(compression);
    for (let packet = 0; packet < 6; packet++) {
      const normal = Array.from({ length: 64 }, (_, index) => ({
        place: (packet * 64 + index) * PAGE,
        bytes: pageOf(packet * 10 + (index % 10) + 1),
      }));
      const data = await compressor.compress(Buffer.concat(normal.map(({ bytes }) => bytes)));
      sources[0]!.push(
        packetBytes(PAGE, { block: "pc.ram", normal }, { compression, payload: data.slice() }),
      );
    }
    compressor.close();
    sources[0]!.push(syncPacket(PAGE));
    let synced = false;
    const syncing = receiver.sync().then(() => (synced = true));
    while (!synced) {
      await setImmediate();
      file.finishSome(true);
    }
    await syncing;
    receiver.close();
    for (let index = 0; index < 6 * 64; index++) {
      expect(file.bytes[index * PAGE]).toBe(Math.floor(index / 64) * 10 + ((index % 64) % 10) + 1);
    }
  });

  const onePage = { block: "pc.ram", normal: [{ place: 0, bytes: pageOf(1) }] };
  test.each<readonly [string, FormatError["code"], readonly Uint8Array[]]>([
    ["a block that is not in the list", "malformed", [packetBytes(PAGE, { ...onePage, block: "rom" })]],
    ["a page behind its block", "malformed", [packetBytes(PAGE, { block: "vga.vram", zero: [8 * PAGE] })]],
    ["no packet", "malformed", [Buffer.alloc(4096, 1)]],
    [
      "another compression than before",
      "inconsistent",
      [
        packetBytes(PAGE, onePage, { compression: "zlib", payload: Buffer.from([1]) }),
        packetBytes(PAGE, onePage, { compression: "zstd", payload: Buffer.from([1]) }),
      ],
    ],
    [
      "damaged compressed pages",
      "malformed",
      [packetBytes(PAGE, onePage, { compression: "zlib", payload: Buffer.from("no zlib stream") })],
    ],
  ])("%s fails the migration", async (_, code, bytes) => {
    const { sources, receiver, failures } = setUp(2);
    sources[0]!.push(...bytes, syncPacket(PAGE));
    sources[1]!.push(syncPacket(PAGE));
    await expect(receiver.sync()).rejects.toMatchObject({ code });
    expect(failures).toEqual([expect.objectContaining({ code })]);
    await expect(receiver.finish()).rejects.toMatchObject({ code });
  });

  test.each([
    ["in a packet's head", 100],
    ["between head and pages", 320 + 8 * 128],
    ["in its pages", 320 + 8 * 128 + 100],
  ])("a channel that ends %s fails the migration", async (_, length) => {
    const { sources, receiver } = setUp(2);
    sources[0]!.push(packetBytes(PAGE, onePage).subarray(0, length));
    sources[0]!.end();
    await expect(receiver.sync()).rejects.toMatchObject({ code: "truncated" });
  });

  test("one that ends without having been synced does, too", async () => {
    const { sources, receiver } = setUp(2);
    sources[0]!.push(packetBytes(PAGE, { block: "pc.ram", zero: [0] }));
    sources[0]!.end();
    sources[1]!.push(syncPacket(PAGE));
    await expect(receiver.sync()).rejects.toMatchObject({ code: "truncated" });
  });

  test("a write that fails is the failure", async () => {
    const { sources, receiver, file } = setUp(1);
    file.startWrite = () => Promise.reject(new Error("no space"));
    const run = Array.from({ length: 16 }, (_, index) => ({ place: index * PAGE, bytes: pageOf(7) }));
    sources[0]!.push(packetBytes(PAGE, { block: "pc.ram", normal: run }), syncPacket(PAGE));
    await expect(receiver.sync()).rejects.toThrow("no space");
  });

  test("what begins with pages syncs by round, what begins with syncs by section", async () => {
    const byRound = setUp(3);
    byRound.sources[2]!.push(syncPacket(PAGE));
    const finding = byRound.receiver.findSyncMode();
    await settle();
    byRound.sources[1]!.push(packetBytes(PAGE, { block: "pc.ram", zero: [0] }));
    expect(await finding).toBe("round");
    const bySection = setUp(3);
    for (const source of bySection.sources) source.push(syncPacket(PAGE));
    expect(await bySection.receiver.findSyncMode()).toBe("section");
  });
});
