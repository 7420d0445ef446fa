import { writeFileSync } from "node:fs";
import { describe, expect, onTestFinished, test } from "vitest";

import { parseMigrationUri, ReadableFile } from "../../../../src/channels/index.js";
import {
  lazyLoadMappedRam,
  type LazyLoadOptions,
  type LazyLoadResult,
  type NamedPageRun,
  openMappedRam,
  resumeLazyLoad,
} from "../../../../src/engine/index.js";
import { CancelledError, FormatError, MachineError, UsageError } from "../../../../src/errors/index.js";
import { receiveSnapshot } from "../../../../src/session/index.js";
import { ByteWriter, encodePageRequest, encodeShut } from "../../../../src/wire/index.js";
import { breakableLink, type BreakableLink } from "../../../support/breakable-link.js";
import {
  PostcopyDestination,
  type PostcopyDestinationOptions,
} from "../../../support/postcopy-destination.js";
import { Random } from "../../../support/random.js";
import { buildStream, pageContent, type StreamPage } from "../../../support/stream-builder.js";
import { useWorkDir } from "../../../support/work-dir.js";

const workDir = useWorkDir();
const PAGE = 4096;
/** Multiples of four pages: {@link LARGE_PAGES}. */
const BLOCKS = [
  ["pc.ram", 1200],
  ["pc.rom", 8],
  ["vga.vram", 64],
] as const;
const LARGE_PAGES = 4 * PAGE;

interface Snapshot {
  readonly file: ReadableFile;
  readonly expected: ReadonlyMap<string, Buffer>;
}

let snapshots = 0;

/** A snapshot with holes of all sizes. */
async function snapshot(random: Random): Promise<Snapshot> {
  const pages: StreamPage[] = [];
  const expected = new Map<string, Buffer>();
  for (const [block, count] of BLOCKS) {
    const memory = Buffer.alloc(count * PAGE);
    for (let page = 0; page < count;) {
      const isHole = random.below(3) === 0;
      const end = Math.min(count, page + 1 + random.below(random.pick([2, 12, 80])));
      for (; page < end; page++) {
        if (isHole) continue;
        const fill = 1 + random.below(255);
        pages.push({ block, page, fill });
        pageContent(fill).copy(memory, page * PAGE);
      }
    }
    expected.set(block, memory);
  }
  snapshots += 1;
  const stream = workDir.file(`stream-${snapshots}`);
  writeFileSync(stream, buildStream({ early: true, blocks: BLOCKS, pages }).bytes);
  const path = workDir.file(`vm-${snapshots}.ram`);
  await receiveSnapshot(parseMigrationUri(`file:${stream}`), path);
  const file = ReadableFile.open(path);
  onTestFinished(() => file.close());
  return { file, expected };
}

interface Scene {
  readonly destination: Partial<PostcopyDestinationOptions>;
  readonly options?: LazyLoadOptions;
  /** Bytes after which each connection breaks, in turn; those behind them stay. */
  readonly breaks?: readonly number[];
  /** Whether it is known how the destination has its preempt channel; default true. */
  readonly knowsPreempt?: boolean;
}

/** Loads into a destination, connection after connection, until all is there. */
async function load(
  { file, expected }: Snapshot,
  random: Random,
  { destination: behaviour, options = {}, breaks = [], knowsPreempt = true }: Scene,
): Promise<{ readonly result: LazyLoadResult; readonly destination: PostcopyDestination }> {
  const destination = new PostcopyDestination({
    random,
    touches: 400,
    touchesOfDevices: 10,
    mostWaiting: 4,
    hasPreempt: false,
    ...behaviour,
  });
  const left = [...breaks];
  const capacity = 1 + random.below(300_000);
  let running: Promise<"done" | "paused"> | undefined;
  let main: BreakableLink;
  const connect = (): BreakableLink => {
    const breakAfterBytes = left.shift();
    main = breakableLink({ capacity, ...(breakAfterBytes === undefined ? {} : { breakAfterBytes }) });
    running = destination.run(main.far);
    running.catch(() => {
      main.break();
    });
    return main;
  };
  const preempt = {
    connect: () => {
      const link = breakableLink({ capacity: 100_000 });
      destination.takePreempt(link.far);
      return Promise.resolve(link.near);
    },
    ...(knowsPreempt ? { early: behaviour.readsPreemptToItsEnd === true } : {}),
  };
  const { near } = connect();
  const loading = lazyLoadMappedRam(
    file,
    openMappedRam(file),
    { main: near, returnPath: near },
    {
      ...(behaviour.hasPreempt === true ? { preempt } : {}),
      reconnect: async () => {
        if ((await running) === "done") return "completed";
        const again = connect().near;
        return { main: again, returnPath: again };
      },
      ...options,
    },
  );
  const result = await loading.catch(async (error: unknown) => {
    // What the destination found wrong says more than that its connection is gone.
    await running;
    throw error;
  });
  expect(await running).toBe("done");
  for (const { name, memory } of destination.blocks) {
    expect(memory.equals(expected.get(name)!), name).toBe(true);
  }
  return { result, destination };
}

const PREEMPT = { hasPreempt: true };
const EARLY_PREEMPT = { hasPreempt: true, readsPreemptToItsEnd: true };
const largePages = { hostPageSizeOf: (block: string) => (block === "pc.ram" ? LARGE_PAGES : undefined) };

describe("lazy load", () => {
  test.each([
    ["plain", {}, {}],
    ["page by page, in small slices", {}, { clusterBytes: 0, sliceBytes: PAGE }],
    ["large host pages", {}, largePages],
    ["preempt", PREEMPT, {}],
    ["preempt, large host pages", PREEMPT, { ...largePages, sliceBytes: 2 * LARGE_PAGES }],
    ["preempt of an old QEMU", EARLY_PREEMPT, {}],
  ])("%s: each page once, those asked for first", async (_name, destination, options) => {
    for (let seed = 1; seed <= 5; seed++) {
      const random = new Random(seed);
      const { result, destination: there } = await load(await snapshot(random), random, {
        destination,
        options: { ...options, fillBytesPerSecond: () => (seed % 2 === 0 ? 0 : 100 << 20) },
      });
      expect(Object.keys(result.milestones)).toEqual([
        "package-sent",
        "devices-loaded",
        "all-sent",
        "completed",
      ]);
      expect(result.statistics.requests).toBe(there.requests);
      expect(result.requested).toHaveLength(there.requests);
      expect(result.statistics.askedForPages).toBeGreaterThanOrEqual(10);
      expect(result.statistics.serviceMs.p50).toBeLessThanOrEqual(result.statistics.serviceMs.p99!);
    }
  });

  test.each([
    ["plain", {}, {}],
    ["large host pages", {}, largePages],
    ["preempt", PREEMPT, largePages],
    ["preempt of an old QEMU", EARLY_PREEMPT, {}],
  ])("%s: breaks anywhere, and goes on", async (_name, destination, options) => {
    let recoveries = 0;
    for (let seed = 1; seed <= 8; seed++) {
      const random = new Random(seed);
      // The first one behind the package, and so many of them that some break a recovery.
      const breaks = [900_000 + random.below(2_000_000), random.below(20_000), random.below(2_000_000)];
      const { result } = await load(await snapshot(random), random, {
        destination: { ...destination, touches: 3000 },
        options: { ...options, fillBytesPerSecond: () => 200 << 20 },
        breaks,
      });
      recoveries += result.statistics.recoveries;
    }
    expect(recoveries).toBeGreaterThan(8);
  });

  test("with a preempt channel zero pages go only when asked for, even behind the end", async () => {
    let late = 0;
    for (let seed = 1; seed <= 6; seed++) {
      const random = new Random(seed);
      const { destination, result } = await load(await snapshot(random), random, {
        destination: { ...PREEMPT, touches: 3000, mostWaiting: 1 },
        options: { clusterBytes: 0 },
      });
      late += destination.lateRequests;
      const missing = destination.blocks.flatMap(({ received }) => [...received.clearRuns()]);
      expect(missing.length + result.statistics.askedForPages).toBeGreaterThan(0);
    }
    expect(late).toBeGreaterThan(0);
  });

  test.each([
    ["old", EARLY_PREEMPT],
    ["new", PREEMPT],
  ])("a preempt channel of a destination of which nobody knows that it is %s", async (_what, behaviour) => {
    const random = new Random(1);
    const { destination } = await load(await snapshot(random), random, {
      destination: { ...behaviour, touches: 1000 },
      knowsPreempt: false,
    });
    expect(destination.requests).toBeGreaterThan(10);
  });

  test("without one, all of them go before the end", async () => {
    const random = new Random(1);
    const { destination } = await load(await snapshot(random), random, { destination: {} });
    for (const { received } of destination.blocks) expect(received.count()).toBe(received.pageCount);
  });

  test.each(["before-run", "after-run"] as const)("prefetches %s, up to a budget", async (when) => {
    const random = new Random(3);
    const vm = await snapshot(random);
    const runs: NamedPageRun[] = [
      { block: "vga.vram", start: 3, end: 40 },
      { block: "pc.ram", start: 600, end: 1200 },
      { block: "pc.ram", start: 0, end: 1200 },
    ];
    const most = 200;
    const { destination } = await load(vm, random, {
      destination: { touches: 0, touchesOfDevices: 0 },
      options: { prefetch: { runs, budgetBytes: most * PAGE + 100, when } },
    });
    expect(destination.precopyPages).toBe(when === "before-run" ? most : 0);
  });

  test("a guest that has its working set is left to itself for a moment, until it asks for something else", async () => {
    const runs: NamedPageRun[] = [{ block: "pc.ram", start: 0, end: 600 }];
    const fillMs = async (touches: number): Promise<number> => {
      const random = new Random(3);
      const { result } = await load(await snapshot(random), random, {
        destination: { touches, touchesOfDevices: 0 },
        options: { prefetch: { runs, budgetBytes: Infinity, when: "before-run" } },
      });
      const { "all-sent": sent = NaN, "devices-loaded": loaded = NaN } = result.milestones;
      return sent - loaded;
    };
    expect(await fillMs(0)).toBeGreaterThanOrEqual(250);
    expect(await fillMs(100)).toBeLessThan(200);
  });

  test("all of it prefetched before the guest runs", async () => {
    const random = new Random(4);
    const vm = await snapshot(random);
    const runs = BLOCKS.map(([block, end]) => ({ block, start: 0, end }));
    const { destination } = await load(vm, random, {
      destination: {},
      options: { prefetch: { runs, budgetBytes: Infinity, when: "before-run" } },
    });
    expect(destination.precopyPages).toBe(BLOCKS.reduce((sum, [, pages]) => sum + pages, 0));
    expect(destination.requests).toBe(0);
  });

  test.each([
    ["plain", {}],
    ["preempt", PREEMPT],
  ])("%s: while requests are recorded, nothing but them goes out", async (_name, behaviour) => {
    const random = new Random(6);
    const { result } = await load(await snapshot(random), random, {
      destination: { ...behaviour, touches: 200, touchesOfDevices: 0 },
      options: { recording: { quietMs: 200, mostMs: 60_000 } },
    });
    const asked = new Set(result.requested.map(({ block, start }) => `${block} ${start}`));
    expect(result.statistics).toMatchObject({ clusterPages: 0, askedForPages: asked.size });
    expect(asked.size).toBeGreaterThan(100);
    // And all else afterwards.
    expect(result.statistics.backgroundBytes).toBeGreaterThan(200 * PAGE);
  });

  test("another process goes on with nothing but the file", async () => {
    const random = new Random(5);
    const { file, expected } = await snapshot(random);
    const destination = new PostcopyDestination({
      random,
      touches: 500,
      touchesOfDevices: 3,
      mostWaiting: 3,
      hasPreempt: false,
    });
    const first = breakableLink({ capacity: 10_000, breakAfterBytes: 1_500_000 });
    const running = destination.run(first.far);
    const channels = { main: first.near, returnPath: first.near };
    const options = { fillBytesPerSecond: () => 100 << 20 };
    const loading = lazyLoadMappedRam(file, openMappedRam(file), channels, options);
    await expect(loading).rejects.toMatchObject({ code: "connection-closed" });
    expect(await running).toBe("paused");
    const { near, far } = breakableLink({ capacity: 10_000 });
    const resumed = destination.run(far);
    const result = await resumeLazyLoad(file, openMappedRam(file), { main: near, returnPath: near });
    expect(await resumed).toBe("done");
    expect(Object.keys(result.milestones)).toEqual(["all-sent", "completed"]);
    for (const { name, memory } of destination.blocks) expect(memory.equals(expected.get(name)!)).toBe(true);
  });
});

describe("lazy load that cannot be", () => {
  /** A destination of a few bytes: what it says does not depend on what it reads. */
  async function againstAnswer(
    answer: (writer: ByteWriter) => void,
    options: LazyLoadOptions = {},
  ): Promise<unknown> {
    const { file } = await snapshot(new Random(1));
    const { near, far } = breakableLink({ capacity: 1000 });
    const writer = new ByteWriter();
    answer(writer);
    void far.write(writer.finish()).catch(() => undefined);
    void (async () => {
      const target = new Uint8Array(1 << 16);
      while ((await far.read(target)) > 0);
    })().catch(() => undefined);
    const channels = { main: near, returnPath: near };
    return lazyLoadMappedRam(file, openMappedRam(file), channels, options).catch((error: unknown) => error);
  }

  const ask = (block: string | undefined, start: number, length: number) => (writer: ByteWriter) =>
    encodePageRequest(writer, { block, start, length });

  test.each([
    ["an unknown block", ask("pc.bios", 0, PAGE), /unknown RAM block.*block pc.bios/],
    ["no block at all", ask(undefined, 0, PAGE), /page of no block/],
    ["a part of a page", ask("pc.ram", 512, PAGE), /part of a page.*offset 0.*pc.ram.*4096 bytes at 512/],
    ["less than a page", ask("pc.ram", 0, 100), /part of a page/],
    ["no bytes", ask("pc.ram", 0, 0), /part of a page/],
    ["pages behind the block", ask("pc.rom", 8 * PAGE, PAGE), /does not have/],
    ["more pages than there are", ask("pc.rom", 4 * PAGE, 5 * PAGE), /does not have/],
  ])("a destination that asks for %s", async (_what, answer, message) => {
    const error = await againstAnswer(answer);
    expect(error).toBeInstanceOf(FormatError);
    expect((error as Error).message).toMatch(message);
  });

  test("a destination that talks nonsense", async () => {
    expect(await againstAnswer((writer) => writer.raw(new Uint8Array(40).fill(0x77)))).toBeInstanceOf(
      FormatError,
    );
  });

  test("a destination that says that loading failed; nobody connects again", async () => {
    let reconnects = 0;
    const error = await againstAnswer((writer) => encodeShut(writer, 1), {
      reconnect: () => {
        reconnects += 1;
        return Promise.resolve("completed");
      },
    });
    expect(error).toMatchObject({ code: "migration-failed" });
    expect(reconnects).toBe(0);
  });

  test("a destination that says it has everything at once", async () => {
    const error = await againstAnswer((writer) => encodeShut(writer, 0));
    expect(error).toBeInstanceOf(MachineError);
    expect(error).toMatchObject({ code: "migration-failed" });
  });

  test("cancelled while the destination says nothing", async () => {
    const signal = AbortSignal.timeout(50);
    expect(await againstAnswer(() => undefined, { signal })).toBeInstanceOf(CancelledError);
  });

  test("a connection that breaks before the package: nobody connects again", async () => {
    const { file } = await snapshot(new Random(1));
    const { near, far } = breakableLink({ capacity: 10 });
    far.read(new Uint8Array(10)).then(
      () => far.close(),
      () => undefined,
    );
    let reconnects = 0;
    const loading = lazyLoadMappedRam(
      file,
      openMappedRam(file),
      { main: near, returnPath: near },
      {
        reconnect: () => {
          reconnects += 1;
          return Promise.resolve("completed");
        },
      },
    );
    await expect(loading).rejects.toMatchObject({ code: "connection-closed" });
    expect(reconnects).toBe(0);
  });

  test("what reconnecting throws, the load fails with; and it may find that all was there", async () => {
    for (const answer of [new MachineError("not-capable", "no"), "completed" as const]) {
      const random = new Random(1);
      const { file } = await snapshot(random);
      const behaviour = { random, touches: 0, touchesOfDevices: 0, mostWaiting: 1, hasPreempt: false };
      const destination = new PostcopyDestination(behaviour);
      const { near, far } = breakableLink({ capacity: 1000, breakAfterBytes: 1_000_000 });
      const running = destination.run(far);
      const reconnect = (): Promise<"completed"> =>
        typeof answer === "string" ? Promise.resolve(answer) : Promise.reject(answer);
      const channels = { main: near, returnPath: near };
      const loading = lazyLoadMappedRam(file, openMappedRam(file), channels, { reconnect });
      if (typeof answer === "string") expect((await loading).milestones).toHaveProperty("completed");
      else await expect(loading).rejects.toBe(answer);
      expect(await running).toBe("paused");
    }
  });

  test.each([
    [{ block: "pc.gone", start: 0, end: 1 }],
    [{ block: "pc.rom", start: 7, end: 9 }],
    [{ block: "pc.rom", start: 3, end: 3 }],
  ])("a working set of another machine: %j", async (run) => {
    const prefetch = { runs: [run], budgetBytes: 1 << 20, when: "after-run" as const };
    expect(await againstAnswer(() => undefined, { prefetch })).toBeInstanceOf(UsageError);
  });

  test("blocks that do not consist of host pages", async () => {
    const error = await againstAnswer(() => undefined, { hostPageSizeOf: () => 2 << 20 });
    expect(error).toMatchObject({ code: "unsupported", data: { block: "pc.ram" } });
  });
});
