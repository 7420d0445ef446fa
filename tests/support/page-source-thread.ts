/**
 * A postcopy source from LISTEN on, in a thread of its own: a guest's thread that waits for a page cannot be its source.
 * {@link startPageSource} starts it.
 *
 * @module
 */

import net from "node:net";
import { parentPort, workerData } from "node:worker_threads";

import {
  ByteReader,
  ByteWriter,
  decodePageRequest,
  decodeReceivedBitmap,
  decodeReceivedBitmapName,
  decodeReturnPathRecord,
  encodeCommand,
  encodeEndOfSection,
  encodeSectionFooter,
  MigrationCommand,
  plainCommand,
  RamFlag,
  receivedBitmapCommand,
  ReturnPathMessage,
  SectionType,
} from "../../src/wire/index.js";
import { PageBitmap } from "../../src/memory/index.js";
import {
  isZeroPage,
  RAM_ID,
  sourcePage,
  SOURCE_PAGE,
  type SourceData,
  type SourceOrder,
} from "./source-pages.js";

const { path, blocks, connects } = workerData as SourceData;
const done = new Map(blocks.map(({ name, sent = [] }) => [name, new Set(sent)]));
let socket: net.Socket | undefined;
let asked = 0;
let lastBlock = "";
let unread = Buffer.alloc(0);

let breaksWhenAsked = false;

const server = connects === true ? undefined : net.createServer(take);
if (server === undefined) parentPort?.postMessage({ kind: "ready" });
else server.listen(path, () => parentPort?.postMessage({ kind: "ready" }));

function take(connection: net.Socket): void {
  if (socket !== undefined) resume(connection);
  socket = connection;
  unread = Buffer.alloc(0);
  connection.on("error", () => undefined);
  connection.on("data", (bytes) => {
    unread = Buffer.concat([unread, bytes]);
    readAnswers(connection);
  });
}

/** Connects as soon as somebody listens. */
function connect(): void {
  const connection = net.connect(path);
  const again = (): void => void setTimeout(connect, 10);
  connection.once("error", again);
  connection.once("connect", () => {
    connection.off("error", again);
    take(connection);
  });
}

parentPort?.on("message", (order: SourceOrder | "close") => {
  if (order === "break") {
    socket?.once("close", tellDone).destroy();
    return;
  }
  if (order === "connect") connect();
  else if (order === "break-when-asked") breaksWhenAsked = true;
  else if (order === "fill-half") fill((page) => page % 2 === 0);
  else if (order === "fill") {
    fill(() => true);
    socket?.write(section(SectionType.END, []));
    socket?.write(Buffer.from([SectionType.EOF]));
  } else {
    socket?.destroy();
    server?.close();
    parentPort?.close();
    return;
  }
  tellDone();
});

function tellDone(): void {
  parentPort?.postMessage({ kind: "done" });
}

/** Asks what has come, and goes on; what was under way when the connection broke is sent again. */
function resume(connection: net.Socket): void {
  const writer = new ByteWriter();
  for (const { name } of blocks) encodeCommand(writer, receivedBitmapCommand(name));
  encodeCommand(writer, plainCommand(MigrationCommand.POSTCOPY_RESUME));
  connection.write(writer.finish());
}

/** Bytes of the message at the begin of `unread` with what stands behind it; undefined when that has not come yet. */
function messageBytes(): number | undefined {
  const length = 4 + unread.readUInt16BE(2);
  if (unread.readUInt16BE(0) !== ReturnPathMessage.RECV_BITMAP) return length;
  return unread.length < length + 8 ? undefined : length + 16 + Number(unread.readBigUInt64BE(length));
}

function takeBitmap(name: string, bytes: Uint8Array): void {
  const pages = blocks.find((block) => block.name === name)?.pages ?? 0;
  const bitmap = PageBitmap.fromBytes(pages, decodeReceivedBitmap(new ByteReader(bytes, 0), name, pages));
  const has = Array.from({ length: pages }, (_, page) => page).filter((page) => bitmap.has(page));
  done.set(name, new Set(has));
}

function readAnswers(connection: net.Socket): void {
  while (unread.length >= 4) {
    const length = messageBytes();
    if (length === undefined || unread.length < length) return;
    const message = new ByteReader(unread.subarray(0, length), 0);
    const { type, data } = decodeReturnPathRecord(message);
    unread = unread.subarray(length);
    if (type === ReturnPathMessage.RECV_BITMAP) {
      takeBitmap(decodeReceivedBitmapName(new ByteReader(data, 0)), message.bytes.subarray(message.position));
    }
    if (type === ReturnPathMessage.SHUT) {
      parentPort?.postMessage({ kind: "shut", asked });
      continue;
    }
    if (type !== ReturnPathMessage.REQ_PAGES && type !== ReturnPathMessage.REQ_PAGES_ID) continue;
    const request = decodePageRequest(type, new ByteReader(data, 0));
    lastBlock = request.block ?? lastBlock;
    asked += 1;
    if (breaksWhenAsked) {
      breaksWhenAsked = false;
      connection.destroy();
      connect();
      return;
    }
    const first = request.start / SOURCE_PAGE;
    const pages = Array.from({ length: request.length / SOURCE_PAGE }, (_, index) => first + index);
    connection.write(section(SectionType.PART, unsent(lastBlock, pages)));
  }
}

function fill(wanted: (page: number) => boolean): void {
  for (const { name, pages } of blocks) {
    for (let from = 0; from < pages; from += 64) {
      const piece = Array.from({ length: Math.min(64, pages - from) }, (_, index) => from + index);
      socket?.write(section(SectionType.PART, unsent(name, piece.filter(wanted))));
    }
  }
}

function unsent(name: string, pages: readonly number[]): [string, number][] {
  const before = done.get(name) ?? new Set();
  const left = pages.filter((page) => !before.has(page));
  for (const page of left) before.add(page);
  return left.map((page) => [name, page]);
}

function section(type: number, pages: readonly (readonly [string, number])[]): Uint8Array {
  const writer = new ByteWriter(pages.length * (SOURCE_PAGE + 32) + 64);
  writer.u8(type).u32(RAM_ID);
  for (const [name, page] of pages) {
    writer.u64(page * SOURCE_PAGE + (isZeroPage(page) ? RamFlag.ZERO : RamFlag.PAGE)).idstr(name);
    if (isZeroPage(page)) writer.u8(0);
    else writer.raw(sourcePage(name, page));
  }
  encodeEndOfSection(writer);
  encodeSectionFooter(writer, RAM_ID);
  return writer.finish().slice();
}
