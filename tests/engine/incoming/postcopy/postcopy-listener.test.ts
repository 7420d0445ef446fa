import { describe, expect, test } from "vitest";

import type { ByteChannel } from "../../../../src/channels/index.js";
import {
  type PostcopyConnection,
  PostcopyListener,
  type PostcopyStart,
  type PostcopyStatus,
} from "../../../../src/engine/index.js";
import { FormatError, MachineError, UsageError } from "../../../../src/errors/index.js";
import {
  MigrationCommand,
  pingCommand,
  plainCommand,
  RamFlag,
  receivedBitmapCommand,
  SectionType,
} from "../../../../src/wire/index.js";
import { type BytePipe, bytePipe } from "../../../support/byte-pipe.js";
import { PagedMemory } from "../../../support/postcopy-host.js";
import { Random } from "../../../support/random.js";
import { type ModelBlock, PAGE, Records, SourceModel, startOf } from "./source-model.js";

const SEEDS = 60;

interface Pipes {
  readonly main: BytePipe;
  readonly preempt: BytePipe | undefined;
}

/** Two blocks, of which the second has larger host pages half of the time; some of them zero, some received. */
function blocksOf(random: Random): ModelBlock[] {
  return [
    { name: "ram", pages: 70, hostPageSize: PAGE },
    { name: "huge", pages: 20, hostPageSize: random.pick([PAGE, 4 * PAGE]) },
  ].map(({ name, pages, hostPageSize }) => {
    const bytes = new Uint8Array(pages * hostPageSize);
    for (let at = 0; at < bytes.length; at += PAGE) {
      if (random.below(3) > 0) for (let n = 0; n < PAGE; n++) bytes[at + n] = random.below(256);
    }
    const received = Array.from({ length: pages }, (_, page) => page).filter(() => random.below(4) === 0);
    return { name, hostPageSize, bytes, received: new Set(received) };
  });
}

/** The destination's memory as precopy left it. */
function memoryOf(blocks: readonly ModelBlock[]): PagedMemory {
  const memory = new PagedMemory(
    blocks.map(({ name, bytes, hostPageSize }) => ({ name, hostPageSize, usedLength: bytes.length })),
    PAGE,
  );
  for (const [index, { bytes, hostPageSize, received }] of blocks.entries()) {
    for (const page of received) {
      const at = page * hostPageSize;
      memory.blocks[index]!.bytes.set(bytes.subarray(at, at + hostPageSize), at);
    }
  }
  return memory;
}

function pipesOf(random: Random, preempt: boolean, breaks: boolean): Pipes {
  const pieces = (): number => 1 + random.below(2000);
  const main = bytePipe(pieces, breaks ? random.below(80_000) : Infinity);
  return {
    main,
    preempt: preempt ? bytePipe(pieces, breaks ? random.below(16_000) : Infinity) : undefined,
  };
}

function connectionOf({ main, preempt }: Pipes): PostcopyConnection {
  return {
    main: main.far,
    returnPath: main.far,
    ...(preempt === undefined ? {} : { preempt: Promise.resolve(preempt.far) }),
  };
}

/** The source's work over one connection; undefined when it got through. */
async function send(source: SourceModel, pipes: Pipes, resume: boolean): Promise<unknown> {
  try {
    await source.run(pipes.main.near, pipes.preempt?.near, resume);
    return undefined;
  } catch (error) {
    // The network broke, for both connections; anything else is a bug.
    if (!(error instanceof MachineError)) throw error;
    pipes.main.breakOff();
    pipes.preempt?.breakOff();
    return error;
  }
}

/** Touches pages at random and writes on them; what it has written must stay. */
async function runGuest(memory: PagedMemory, expected: readonly Uint8Array[], random: Random): Promise<void> {
  while (!memory.hasEnded) {
    const index = random.below(expected.length);
    const address = random.below(expected[index]!.length);
    await memory.touch(index, address);
    const { bytes } = memory.blocks[index]!;
    if (bytes[address] !== expected[index]![address]) throw new Error(`wrong byte at ${address} of ${index}`);
    bytes[address] = random.below(256);
    expected[index]![address] = bytes[address];
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe("PostcopyListener", () => {
  test.each(Array.from({ length: SEEDS }, (_, seed) => seed))(
    "places every page once, whatever the order and the breaks (seed %i)",
    async (seed) => {
      const random = new Random(seed);
      const blocks = blocksOf(random);
      const memory = memoryOf(blocks);
      const preempt = random.below(2) === 1;
      const source = new SourceModel(blocks, random);
      let breaks = random.below(4);
      const states: PostcopyStatus[] = [];
      let pipes = pipesOf(random, preempt, breaks > 0);
      const listener = await PostcopyListener.begin(
        startOf(blocks, preempt),
        memory,
        connectionOf(pipes),
        { onStatus: (status) => states.push(status) },
        { processors: 2 },
      );
      listener.running();
      const expected = blocks.map(({ bytes }) => bytes.slice());
      const guests = [1, 2].map((n) => runGuest(memory, expected, new Random(seed * 2 + n)));
      for (let resume = false; (await send(source, pipes, resume)) !== undefined; resume = true) {
        await expect.poll(() => listener.status, { interval: 0 }).toBe("postcopy-paused");
        breaks -= 1;
        pipes = pipesOf(random, preempt, breaks > 0);
        listener.recover(connectionOf(pipes)).catch(() => undefined);
      }
      await listener.ended;
      await Promise.all(guests);
      for (const [index, bytes] of expected.entries()) {
        expect(Buffer.compare(memory.blocks[index]!.bytes, bytes)).toBe(0);
      }
      expect(source.confirmed).toBe(true);
      expect(states.at(0)).toBe("postcopy-active");
      expect(states.at(-1)).toBe("completed");
    },
  );
});

/** Listens over a pipe, with the guest running. */
async function listening(
  blocks: readonly ModelBlock[] = plainBlocks(),
  change: Partial<PostcopyStart> = {},
  pieceBytes = Infinity,
): Promise<{
  readonly listener: PostcopyListener;
  readonly memory: PagedMemory;
  readonly near: ByteChannel;
  readonly pipe: BytePipe;
  readonly preempt: BytePipe;
  /** Why it is paused. */
  readonly paused: () => Promise<Error>;
}> {
  const memory = memoryOf(blocks);
  const pipe = bytePipe(() => pieceBytes);
  const preempt = bytePipe(() => Infinity);
  let stop: (error: Error) => void = () => undefined;
  const stopped = new Promise<Error>((resolve) => (stop = resolve));
  const listener = await PostcopyListener.begin(
    { ...startOf(blocks, true), ...change },
    memory,
    { main: pipe.far, returnPath: pipe.far, preempt: Promise.resolve(preempt.far) },
    {
      onStatus: (_, error) => {
        if (error !== undefined) stop(error);
      },
    },
  );
  return { listener, memory, near: pipe.near, pipe, preempt, paused: () => stopped };
}

/** 8 pages of one target page, and 4 of four. */
function plainBlocks(): ModelBlock[] {
  return [
    { name: "ram", hostPageSize: PAGE, bytes: new Uint8Array(8 * PAGE), received: new Set([7]) },
    { name: "huge", hostPageSize: 4 * PAGE, bytes: new Uint8Array(16 * PAGE), received: new Set() },
  ];
}

const content = new Uint8Array(PAGE).fill(5);

describe("what cannot be is refused with its place, and pauses the migration", () => {
  const cases: readonly (readonly [string, (records: Records) => unknown, RegExp])[] = [
    [
      "a target page of another host page",
      (records) => records.page("huge", 0, content).page("huge", 4 * PAGE, content),
      /before a host page was whole.*block huge.*0x400.*0x1000/,
    ],
    [
      "a page of another block in the middle of a host page",
      (records) => records.page("huge", 0, content).page("ram", 0, content),
      /before a host page was whole.*block ram, expected huge at 0x400/,
    ],
    [
      "target pages out of order",
      (records) => records.page("huge", 0, content).page("huge", 2 * PAGE, content),
      /before a host page was whole.*expected huge at 0x400, found page at 0x800/,
    ],
    [
      "a host page that begins in its middle",
      (records) => records.page("huge", PAGE, content),
      /does not begin with its first target page.*block huge.*0x400/,
    ],
    [
      "a page that precopy has sent",
      (records) => records.page("ram", 7 * PAGE, content),
      /had come before.*block ram, found page at 0x1c00/,
    ],
    [
      "a page twice",
      (records) =>
        records
          .page("ram", PAGE, content)
          .page("ram", 2 * PAGE, content)
          .page("ram", PAGE, content),
      /had come before.*block ram, found page at 0x400/,
    ],
    [
      "a zero page twice",
      (records) => records.page("ram", 0, new Uint8Array(PAGE)).page("ram", 0, new Uint8Array(PAGE)),
      /had come before.*block ram, found page at 0x0/,
    ],
    [
      "a page outside",
      (records) => records.page("ram", 8 * PAGE, content),
      /past the end of its block.*block ram/,
    ],
    [
      "a block that is none",
      (records) => records.page("rom", 0, content),
      /not in the block list.*block rom/,
    ],
    [
      "an xbzrle delta",
      (records) => records.writer.u64(RamFlag.XBZRLE).idstr("ram").u8(1).u16(2).raw(Uint8Array.of(0, 1)),
      /change of a page.*block ram/,
    ],
    [
      "the end in the middle of a host page",
      (records) => records.page("huge", 0, content).close().begin(true).close(),
      /ends in the middle of a host page.*block huge.*found 1024 bytes/,
    ],
    ["the end without END", (records) => records.close().writer.u8(SectionType.EOF), /expected guest memory/],
    [
      "a part behind the end",
      (records) => records.close().begin(true).close().begin(),
      /expected the end of the stream, found 0x2/,
    ],
    [
      "a part of something else",
      (records) => records.close().writer.u8(SectionType.PART).u32(9),
      /section 9/,
    ],
    [
      "a device",
      (records) => records.close().writer.u8(SectionType.FULL).u32(9),
      /cannot stand there.*found 0x4/,
    ],
    [
      "POSTCOPY_RUN",
      (records) => records.close().command(plainCommand(MigrationCommand.POSTCOPY_RUN)),
      /cannot have it.*command 5/,
    ],
    [
      "POSTCOPY_RESUME without a break",
      (records) => records.close().command(plainCommand(MigrationCommand.POSTCOPY_RESUME)),
      /cannot have it.*command 9/,
    ],
    [
      "RECV_BITMAP without a break",
      (records) => records.close().command(receivedBitmapCommand("ram")),
      /cannot have it.*command 10/,
    ],
    ["a multifd flush", (records) => records.writer.u64(RamFlag.MULTIFD_FLUSH), /multifd channels/],
  ];

  test.each(cases)("%s", async (_, put, message) => {
    const { listener, near, paused } = await listening();
    listener.running();
    const records = new Records().begin();
    put(records);
    await near.write(records.take());
    const error = await paused();
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/offset \d+/);
    expect(listener.status).toBe("postcopy-paused");
  });

  test("a page of a block that does not travel", async () => {
    const blocks = plainBlocks();
    const start = startOf(blocks);
    const left = start.blocks.map((block, index) =>
      index === 0 ? { ...block, received: undefined } : block,
    );
    const { listener, near, paused } = await listening(blocks, { blocks: left });
    listener.running();
    await near.write(new Records().begin().page("ram", 0, content).take());
    expect((await paused()).message).toMatch(/shared has pages all the same.*block ram/);
  });

  test("a page on one connection that came on the other", async () => {
    const { listener, near, preempt, paused, memory } = await listening();
    listener.running();
    await near.write(new Records().begin().page("ram", 0, content).close().take());
    await memory.touch(0, 0);
    await preempt.near.write(new Records().page("ram", 0, content).take());
    expect((await paused()).message).toMatch(/had come before.*block ram/);
  });

  test("the end, with a page missing that was asked for", async () => {
    const { listener, near, preempt, paused, memory } = await listening();
    listener.running();
    void memory.touch(0, 0);
    const records = new Records().begin(true).close();
    records.writer.u8(SectionType.EOF);
    await near.write(records.take());
    const eos = new Records();
    eos.writer.u64(RamFlag.EOS);
    await preempt.near.write(eos.take());
    expect((await paused()).message).toMatch(/without pages that were asked for.*1 pages/);
    expect(memory.hasEnded).toBe(false);
  });

  test("a host page of which a part was received before", async () => {
    const { blocks } = startOf(plainBlocks());
    const received = new Uint8Array(8).fill(0b10, 0, 1);
    const part = blocks.map((block) => (block.name === "huge" ? { ...block, received } : block));
    await expect(listening(plainBlocks(), { blocks: part })).rejects.toThrow(
      /A part of a host page.*block huge.*found page at 0x400/,
    );
  });
});

test("a source that asks without end and does not read is read no further until it does", async () => {
  const ping = new Records().command(pingCommand(7)).take();
  let readBytes = 0;
  let closed = false;
  const main = {
    read: (target: Uint8Array) => {
      const count = Math.floor(target.length / ping.length) * ping.length;
      for (let at = 0; at < count; at += ping.length) target.set(ping, at);
      readBytes += count;
      return new Promise<number>((resolve) => setImmediate(resolve, closed ? 0 : count));
    },
    close: () => Promise.resolve(void (closed = true)),
  };
  const writes: (() => void)[] = [];
  let mostWritten = 0;
  const returnPath = {
    write: ({ length }: Uint8Array) => {
      mostWritten = Math.max(mostWritten, length);
      return new Promise<void>((resolve) => writes.push(resolve));
    },
    end: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  const blocks = plainBlocks();
  const listener = await PostcopyListener.begin(startOf(blocks), memoryOf(blocks), { main, returnPath });
  listener.running();
  for (let turns = 0; turns < 100; turns++) await turn();
  const first = readBytes;
  // A window, and what is in the answers.
  expect(first).toBeLessThan(2 << 20);
  while (readBytes === first) {
    writes.shift()?.();
    await turn();
  }
  expect(mostWritten).toBeLessThan(128 << 10);
  listener.abort(new Error("enough"));
  await expect(listener.ended).rejects.toThrow(/cannot have it back/);
});

describe("the states of a listener", () => {
  test("what breaks before the guest runs ends it, and lets go who waits", async () => {
    const { listener, pipe, memory } = await listening();
    const waiting = memory.touch(0, 0);
    pipe.breakOff();
    await expect(listener.ended).rejects.toThrow(MachineError);
    await waiting;
    expect(listener.status).toBe("failed");
    await expect(
      listener.recover({ main: bytePipe(() => 1).far, returnPath: bytePipe(() => 1).far }),
    ).rejects.toThrow(UsageError);
  });

  test("a guest that ran waits for ever when it is broken off: it must not see zeros", async () => {
    const { listener, memory } = await listening();
    listener.running();
    void memory.touch(0, 0);
    listener.abort(new Error("no more"));
    await expect(listener.ended).rejects.toThrow(/the source cannot have it back/);
    await new Promise((resolve) => setImmediate(resolve));
    expect(memory.hasEnded).toBe(false);
    expect(memory.blocks[0]!.missing[0]).toBe(1);
  });

  test("recovers only from a pause; what is waited for is asked for again, and only after the source resumes", async () => {
    const blocks = plainBlocks();
    const { listener, memory, paused, pipe } = await listening(blocks);
    listener.running();
    const near = bytePipe(() => Infinity);
    await expect(listener.recover({ main: near.far, returnPath: near.far })).rejects.toThrow(/is paused/);
    const touched = [memory.touch(0, 3 * PAGE), memory.touch(1, 5 * PAGE)];
    listener.pause();
    expect((await paused()).message).toMatch(/told to pause/);
    touched.push(memory.touch(0, 0), memory.touch(0, 1));
    // The first attempt breaks before the source resumes.
    const bad = bytePipe(() => Infinity);
    const attempt = listener.recover({ main: bad.far, returnPath: bad.far });
    expect(listener.status).toBe("postcopy-recover");
    bad.breakOff();
    await expect(attempt).rejects.toThrow(MachineError);
    expect(listener.status).toBe("postcopy-paused");

    const again = bytePipe(() => Infinity);
    const source = new SourceModel(blocks, new Random(1));
    const sent = source.run(again.near, undefined, true);
    await listener.recover({ main: again.far, returnPath: again.far });
    await Promise.all([sent, listener.ended, ...touched]);
    expect(source.asked).toEqual(["0 3", "1 1", "0 0"]);
    pipe.breakOff();
  });

  test("places nothing any more once it is paused: the source would not know", async () => {
    const pages = 400;
    const block = {
      name: "ram",
      hostPageSize: PAGE,
      bytes: new Uint8Array(pages * PAGE),
      received: new Set<number>(),
    };
    const { listener, near, memory, paused } = await listening([block], {}, PAGE);
    listener.running();
    const records = new Records().begin();
    for (let page = 0; page < pages; page++) records.page("ram", page * PAGE, content);
    await near.write(records.take());
    await memory.touch(0, PAGE);
    listener.pause();
    await paused();
    const placed = memory.placements.length;
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(memory.placements.length).toBe(placed);
    expect(placed).toBeLessThan(pages / 2);
  });

  test("counts what came and how long was waited", async () => {
    const { listener, near, memory, preempt } = await listening();
    listener.running();
    await listener.pong(9);
    const touched = Promise.all([memory.touch(0, 0), memory.touch(0, 1)]);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await preempt.near.write(new Records().page("ram", 0, content).take());
    await touched;
    const records = new Records().command(pingCommand(4)).begin().page("ram", PAGE, content);
    records.page("ram", 2 * PAGE, content).page("ram", 3 * PAGE, new Uint8Array(PAGE));
    for (let page = 0; page < 4; page++) records.page("huge", page * PAGE, new Uint8Array(PAGE));
    records.close().begin(true).close().writer.u8(SectionType.EOF);
    await near.write(records.take());
    const { pages, requests, blocktime } = await listener.ended;
    expect(pages).toEqual({ normal: 3, zero: 5 });
    expect(requests).toBe(1);
    expect(blocktime.allBlockedMs).toBeGreaterThan(3);
    expect(blocktime.processorMs).toEqual([blocktime.allBlockedMs]);
    expect(blocktime.latencyNs).toBeGreaterThan(3e6);
    expect(blocktime.processorLatencyNs).toEqual([blocktime.latencyNs]);
    expect(blocktime.latencyDistribution.reduce((sum, count) => sum + count)).toBe(1);
    // Neighbours with content are placed at once, and zero pages as such.
    expect(memory.placements).toEqual([1, 2, 1, 1]);
    expect(memory.blocks[0]!.bytes.subarray(0, 3 * PAGE).every((byte) => byte === 5)).toBe(true);
    // Never sent.
    expect(memory.blocks[1]!.bytes.every((byte) => byte === 0)).toBe(true);
  });
});
