import { truncateSync, writeFileSync } from "node:fs";
import net from "node:net";

import { describe, expect, test } from "vitest";

import { parseMigrationUri, ReadableFile } from "../../../src/channels/index.js";
import {
  type MultifdSendOptions,
  openMappedRam,
  readPageBitmap,
  sendMappedRam,
  sendMultifdHello,
  type TransferProgress,
} from "../../../src/engine/index.js";
import { CancelledError, MachineError } from "../../../src/errors/index.js";
import { receiveSnapshot, sendSnapshot, type SendSnapshotOptions } from "../../../src/session/index.js";
import { ByteWriter, encodeShut, formatUuid } from "../../../src/wire/index.js";
import { Collector } from "../../support/byte-channels.js";
import { buildStream } from "../../support/stream-builder.js";
import { useWorkDir } from "../../support/work-dir.js";
import { digest, readChannel, readMain, type ReceivedPages } from "./read-channels.js";

const workDir = useWorkDir();
const PAGE = 4096;
const UUID = "00112233-4455-6677-8899-aabbccddeeff";

/** A snapshot with runs and gaps of many lengths; the last page of its memory has content. */
async function snapshot(pages = 3000): Promise<string> {
  const stream = workDir.file("stream");
  const isZero = (page: number): boolean =>
    (page < 200 && page % 2 === 1) || (page % 97 < 12 && page > 400) || (page > 1500 && page < 1700);
  const content = Array.from({ length: pages }, (_, page) => ({
    block: "pc.ram",
    page,
    fill: isZero(page) ? 0 : 1 + (page % 250),
  }));
  const { bytes } = buildStream({
    blocks: [
      ["pc.ram", pages],
      ["pc.rom", 5],
    ],
    pages: [...content, { block: "pc.rom", page: 4, fill: 5 }],
  });
  writeFileSync(stream, bytes);
  const file = workDir.file("vm.ram");
  await receiveSnapshot(parseMigrationUri(`file:${stream}`), file);
  return file;
}

/** What the file says that each page is. */
function pagesOf(path: string): ReceivedPages {
  const file = ReadableFile.open(path);
  const pages: ReceivedPages = new Map();
  for (const block of openMappedRam(file).blocks) {
    const bitmap = readPageBitmap(file, block);
    for (let page = 0; page < bitmap.pageCount; page++) {
      const bytes = Buffer.alloc(PAGE);
      if (bitmap.has(page)) file.readAt(bytes, block.mapped!.pagesOffset + page * PAGE);
      pages.set(`${block.name}:${page * PAGE}`, digest(bytes));
    }
  }
  file.close();
  return pages;
}

/** What each connection begins with. */
async function greet(channels: readonly Collector[]): Promise<void> {
  for (const [id, channel] of channels.entries()) {
    await sendMultifdHello(channel, { uuid: new Uint8Array(16), id });
  }
}

/** Sends into memory. */
async function collect(
  path: string,
  channelCount: number,
  options: Partial<MultifdSendOptions> = {},
): Promise<{ main: Collector; channels: readonly Collector[]; progress: readonly TransferProgress[] }> {
  const file = ReadableFile.open(path);
  try {
    const main = new Collector();
    const channels = Array.from({ length: channelCount }, () => new Collector());
    const progress: TransferProgress[] = [];
    await greet(channels);
    const multifd = { channels, file, syncMode: "round", ...options } as const;
    const result = await sendMappedRam(file, openMappedRam(file), main, {
      multifd,
      onProgress: (one) => progress.push(one),
    });
    const sentBytes = [main, ...channels].reduce((sum, { bytes }) => sum + bytes.length, 0);
    // Hellos are no part of the migration yet.
    expect(result.sentBytes).toBe(sentBytes - 64 * channelCount);
    return { main, channels, progress };
  } finally {
    file.close();
  }
}

async function readAll(
  main: Collector,
  channels: readonly Collector[],
): Promise<{
  pages: ReceivedPages;
  events: readonly string[];
  read: readonly Awaited<ReturnType<typeof readChannel>>[];
}> {
  const pages: ReceivedPages = new Map();
  const read = [];
  for (const { bytes } of channels) read.push(await readChannel(bytes, pages));
  return { pages, events: readMain(main.bytes, pages), read };
}

describe("a file sent over channels", () => {
  test.each([1, 3, 70])("%i of them: each page comes once, as it is in the file", async (count) => {
    const file = await snapshot();
    const { main, channels } = await collect(file, count);
    const { pages, read } = await readAll(main, channels);
    expect(pages).toEqual(pagesOf(file));
    expect(read.map(({ hello }) => hello.id)).toEqual(channels.map((_, id) => id));
    const numbers = read.flatMap(({ packetNumbers }) => packetNumbers);
    expect(new Set(numbers).size).toBe(numbers.length);
  });

  test("synced once a round, and when RAM is set up", async () => {
    const { main, channels } = await collect(await snapshot(), 2);
    const { events, read } = await readAll(main, channels);
    expect(events).toEqual(["START", "FLUSH", "PART", "zero", "END", "FLUSH"]);
    for (const { packets } of read) {
      expect(packets[0]).toBe("sync");
      expect(packets.at(-1)).toBe("sync");
      expect(packets.filter((packet) => packet === "sync")).toHaveLength(2);
    }
  });

  test("synced at each section's end", async () => {
    const { main, channels } = await collect(await snapshot(), 2, { syncMode: "section" });
    const { events, read } = await readAll(main, channels);
    expect(events).toEqual(["START", "PART", "zero", "END"]);
    for (const { packets } of read) {
      expect(packets[0]).toBe("sync");
      expect(packets.slice(-2)).toEqual(["sync", "sync"]);
      expect(packets.filter((packet) => packet === "sync")).toHaveLength(3);
    }
  });

  test.each(["zlib", "zstd"] as const)("compressed with %s", async (compression) => {
    const file = await snapshot();
    const { main, channels } = await collect(file, 2, { compression });
    const { pages } = await readAll(main, channels);
    expect(pages).toEqual(pagesOf(file));
    // Pages of one byte each.
    expect(channels[0]!.bytes.length).toBeLessThan(1 << 20);
  });

  test("small gaps are read along, so that packets are full; large ones are not", async () => {
    const file = ReadableFile.open(await snapshot());
    const reads: number[] = [];
    const counting = {
      sizeBytes: file.sizeBytes,
      readAt: (target: Uint8Array, position: number) => {
        reads.push(target.length);
        return file.readAt(target, position);
      },
      startRead: (target: Uint8Array, position: number) => {
        reads.push(target.length);
        return file.startRead(target, position);
      },
    };
    const { path } = file;
    const { channels } = await collect(path, 1, { file: counting });
    file.close();
    const { packets } = await readChannel(channels[0]!.bytes, new Map());
    const pageReads = reads.filter((length) => length >= PAGE);
    // 3000 pages in packets of at most 128, with gaps of 12 pages and one of 199 that no read spans.
    expect(pageReads.length).toBeLessThan(70);
    expect(packets.length).toBeLessThan(30);
    expect(pageReads.reduce((sum, length) => sum + length, 0)).toBeLessThan(2600 * PAGE);
  });

  test("a file that became shorter meanwhile", async () => {
    const path = await snapshot();
    const file = ReadableFile.open(path);
    const skeleton = openMappedRam(file);
    const { pagesOffset } = skeleton.blocks[0]!.mapped!;
    const multifd = {
      channels: [new Collector()],
      file,
      syncMode: "round",
    } as const;
    // Bitmaps and the tail are read first.
    const main = new Collector();
    main.write = () => {
      truncateSync(path, pagesOffset + 1000 * PAGE);
      return Promise.resolve();
    };
    await expect(sendMappedRam(file, skeleton, main, { multifd })).rejects.toMatchObject({
      code: "truncated",
    });
    file.close();
  });
});

/** Takes the connections of one migration and lets `act` do with them what it wants. */
class Destination {
  readonly sockets: net.Socket[] = [];
  readonly bytes: Buffer[][] = [];
  readonly closed: Promise<void>[] = [];
  readonly #server: net.Server;

  constructor(act: (socket: net.Socket, index: number) => void) {
    this.#server = net.createServer({ allowHalfOpen: true }, (socket) => {
      const index = this.sockets.push(socket) - 1;
      const pieces: Buffer[] = [];
      this.bytes.push(pieces);
      socket.on("error", () => undefined);
      this.closed.push(new Promise((resolve) => socket.once("close", () => resolve())));
      act(socket, index);
      if (!socket.isPaused()) socket.on("data", (piece: Buffer) => void pieces.push(piece));
    });
  }

  async listen(): Promise<string> {
    const path = workDir.file("in");
    await new Promise<void>((resolve) => this.#server.listen(path, resolve));
    return `unix:${path}`;
  }

  /** Every connection was closed by the other side, and no more come. */
  async stop(): Promise<void> {
    this.#server.close();
    for (const socket of this.sockets) socket.resume().end();
    await Promise.all(this.closed);
  }
}

function shut(result: number): Uint8Array {
  const writer = new ByteWriter();
  encodeShut(writer, result);
  return writer.finish();
}

/** Says that all is well once the main connection has ended. */
function confirm(socket: net.Socket, index: number): void {
  if (index === 0) socket.once("end", () => socket.end(shut(0)));
  else socket.once("end", () => socket.end());
}

async function sendTo(
  destination: Destination,
  options: SendSnapshotOptions,
  pages?: number,
): Promise<unknown> {
  const file = await snapshot(pages);
  const uri = await destination.listen();
  return sendSnapshot(file, parseMigrationUri(uri), options);
}

describe("over sockets", () => {
  test("the main connection is the first, each says its number and the UUID, all end", async () => {
    const destination = new Destination(confirm);
    const result = await sendTo(destination, { channels: 4, uuid: UUID });
    expect(result).toMatchObject({ confirmed: true });
    await destination.stop();
    const [main, ...channels] = destination.bytes.map((pieces) => Buffer.concat(pieces));
    const pages: ReceivedPages = new Map();
    for (const [id, bytes] of channels.entries()) {
      const { hello } = await readChannel(bytes, pages);
      expect(hello.id).toBe(id);
      expect(formatUuid(hello.uuid)).toBe(UUID);
    }
    readMain(main!, pages);
    expect(pages).toEqual(pagesOf(workDir.file("vm.ram")));
  });

  test("one channel is closed, nobody reads the others: it fails, and all are closed", async () => {
    const destination = new Destination((socket, index) => {
      if (index !== 2) socket.pause();
      else socket.once("data", () => socket.destroy());
    });
    const error = await sendTo(destination, { channels: 3 }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(MachineError);
    expect(error).toMatchObject({ code: "connection-closed" });
    expect((error as Error).message).toMatch(/closed multifd channel 2 of 3.*multifd-channels/);
    await destination.stop();
  });

  test("the destination says that loading failed, and reads nothing more", async () => {
    const destination = new Destination((socket, index) => {
      if (index === 0) socket.once("data", () => socket.write(shut(1)));
      else socket.pause();
    });
    await expect(sendTo(destination, { channels: 2 })).rejects.toMatchObject({ code: "migration-failed" });
    await destination.stop();
  });

  test("the main connection is closed while the channels stand still", async () => {
    const destination = new Destination((socket, index) => {
      if (index === 0) socket.once("data", () => socket.destroy());
      else socket.pause();
    });
    const error = await sendTo(destination, { channels: 2 }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "migration-failed" });
    expect((error as Error).message).toMatch(/without having loaded all.*multifd-channels/);
    await destination.stop();
  });

  test.each([
    ["reads nothing", "channels"],
    ["says nothing at the end", "answer"],
  ])("cancelled, where the destination %s: all connections are closed", async (_what, missing) => {
    const controller = new AbortController();
    const destination = new Destination((socket, index) => {
      if (missing === "channels" && index > 0) socket.pause();
      if (missing === "channels" && index === 0) socket.once("data", () => controller.abort());
      if (missing === "answer" && index === 0) socket.once("end", () => controller.abort());
    });
    const sending = sendTo(destination, { channels: 3, signal: controller.signal });
    await expect(sending).rejects.toBeInstanceOf(CancelledError);
    await destination.stop();
  });

  test("a destination that takes one connection only", async () => {
    const path = workDir.file("in");
    const server = net.createServer((socket) => socket.on("error", () => undefined));
    server.once("connection", () => server.close());
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const file = await snapshot();
    const sending = sendSnapshot(file, { kind: "unix", path }, { channels: 200 });
    const error = await sending.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(MachineError);
    expect((error as Error).message).toMatch(/multifd/);
  });

  test.each([
    ["0 channels", { channels: 0 }, /1 to 255/],
    ["256 channels", { channels: 256 }, /1 to 255/],
    ["compression without channels", { multifdCompression: "zlib" }, /--channels/],
    ["sync without channels", { multifdSync: "round" }, /--channels/],
    ["a level without its method", { channels: 2, multifdZlibLevel: 3 }, /--multifd-compression zlib/],
    ["a UUID that is none", { channels: 2, uuid: "x" }, /no UUID/],
  ] satisfies readonly [string, SendSnapshotOptions, RegExp][])("%s", async (_what, options, words) => {
    const sending = sendSnapshot(workDir.file("none"), { kind: "unix", path: workDir.file("in") }, options);
    await expect(sending).rejects.toMatchObject({ name: "UsageError" });
    await expect(sending).rejects.toThrow(words);
  });

  test("channels to standard output", async () => {
    const sending = sendSnapshot(workDir.file("none"), { kind: "stdio" }, { channels: 2 });
    await expect(sending).rejects.toThrow(/connected to more than once/);
  });
});
