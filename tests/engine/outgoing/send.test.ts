import fs, { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import net from "node:net";
import { describe, expect, test, vi } from "vitest";

import {
  type ByteSink,
  parseMigrationUri,
  ReadableFile,
  SequentialFile,
} from "../../../src/channels/index.js";
import { openMappedRam, sendMappedRam } from "../../../src/engine/index.js";
import { CancelledError, FormatError, MachineError } from "../../../src/errors/index.js";
import { receiveSnapshot, sendSnapshot } from "../../../src/session/index.js";
import { ByteWriter, encodeShut } from "../../../src/wire/index.js";
import { readMappedRamContent } from "../../support/mapped-ram-content.js";
import { buildStream } from "../../support/stream-builder.js";
import { useWorkDir } from "../../support/work-dir.js";

const workDir = useWorkDir();

/** A snapshot that a built stream was received into. */
async function snapshot(pages = 1500): Promise<string> {
  const stream = workDir.file("stream");
  const content = Array.from({ length: pages }, (_, page) => ({
    block: "pc.ram",
    page,
    fill: page % 7 === 0 ? 0 : 1 + (page % 250),
  }));
  writeFileSync(
    stream,
    buildStream({
      early: true,
      blocks: [
        ["pc.ram", pages + 3],
        ["pc.rom", 5],
      ],
      pages: [...content, { block: "pc.rom", page: 4, fill: 5 }],
    }).bytes,
  );
  const file = workDir.file("vm.ram");
  await receiveSnapshot(parseMigrationUri(`file:${stream}`), file);
  return file;
}

/** Listens once, as a destination; `answer` decides what it says. */
async function destination(answer: (socket: net.Socket) => void): Promise<string> {
  const path = workDir.file("in");
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    server.close();
    socket.on("error", () => undefined);
    answer(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return `unix:${path}`;
}

function shut(result: number): Uint8Array {
  const writer = new ByteWriter();
  encodeShut(writer, result);
  return writer.finish();
}

describe("send", () => {
  test("into a file and received again, it is the same file", async () => {
    const file = await snapshot();
    const stream = workDir.file("out.stream");
    writeFileSync(stream, "");
    const source = ReadableFile.open(file);
    const sink = new SequentialFile(stream, openSync(stream, "r+"), 0);
    const result = await sendMappedRam(source, openMappedRam(source), sink);
    await sink.close();
    source.close();
    expect(result.confirmed).toBeUndefined();
    expect(result.pages).toEqual({ normal: 1285 + 1, zero: 215 + 3 + 4 });
    const again = workDir.file("again.ram");
    await receiveSnapshot(parseMigrationUri(`file:${stream}`), again);
    expect(readMappedRamContent(again)).toEqual(readMappedRamContent(file));
    expect(readFileSync(again).equals(readFileSync(file))).toBe(true);
  });

  test("over a socket to receive, with its confirmation", async () => {
    const file = await snapshot();
    const again = workDir.file("again.ram");
    let sending: Promise<unknown> | undefined;
    await receiveSnapshot(parseMigrationUri(`unix:${workDir.file("in")}`), again, {
      onListening: (uri) => {
        sending = sendSnapshot(file, parseMigrationUri(uri));
      },
    });
    expect(await sending).toMatchObject({ confirmed: true });
    expect(readMappedRamContent(again)).toEqual(readMappedRamContent(file));
  });

  const refusals: readonly (readonly [string, (socket: net.Socket) => void, string])[] = [
    ["says that loading failed", sayFailed, "migration-failed"],
    ["closes without a word at the end", closeAtEnd, "migration-failed"],
    ["closes at once", closeAtOnce, "connection-closed|migration-failed"],
  ];

  test.each(refusals)("a destination that %s", async (_what, answer, code) => {
    const file = await snapshot();
    const uri = await destination(answer);
    const error = await sendSnapshot(file, parseMigrationUri(uri)).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(MachineError);
    expect((error as MachineError).code).toMatch(new RegExp(`^(${code})$`));
  });

  test("a destination that answers nonsense", async () => {
    const file = await snapshot();
    const uri = await destination((socket) => {
      socket.resume();
      socket.write(Buffer.alloc(64, 0xff));
    });
    await expect(sendSnapshot(file, parseMigrationUri(uri))).rejects.toBeInstanceOf(FormatError);
  });

  test.each(["reads nothing", "reads all and says nothing"])(
    "cancelled, where the destination %s",
    async (what) => {
      const file = await snapshot();
      const uri = await destination((socket) => {
        if (what === "reads nothing") socket.pause();
        else socket.resume();
      });
      const sending = sendSnapshot(file, parseMigrationUri(uri), { signal: AbortSignal.timeout(200) });
      await expect(sending).rejects.toBeInstanceOf(CancelledError);
    },
  );

  test.each([1, 2, "the end"])(
    "cancelled at write %s, into a sink that takes everything even then",
    async (when) => {
      const source = ReadableFile.open(await snapshot());
      const controller = new AbortController();
      let writes = 0;
      const sink: ByteSink = {
        write: () => {
          writes += 1;
          if (writes === when) controller.abort();
          return Promise.resolve();
        },
        end: () => {
          controller.abort();
          return Promise.resolve();
        },
        close: () => Promise.resolve(),
      };
      const sending = sendMappedRam(source, openMappedRam(source), sink, { signal: controller.signal });
      await expect(sending).rejects.toBeInstanceOf(CancelledError);
      if (typeof when === "number") expect(writes).toBe(when);
      source.close();
    },
  );

  test("cancelled, into standard output that is a file: nothing more is written", async () => {
    const source = ReadableFile.open(await snapshot());
    const controller = new AbortController();
    // As descriptor 1 is: closing the channel does not close it.
    const close = vi.spyOn(fs, "closeSync").mockImplementation(() => undefined);
    const out = workDir.file("out.stream");
    const fd = openSync(out, "w");
    const sink = new SequentialFile("standard output", fd, undefined);
    const sending = sendMappedRam(source, openMappedRam(source), sink, { signal: controller.signal });
    setImmediate(() => controller.abort());
    await expect(sending).rejects.toBeInstanceOf(CancelledError);
    close.mockRestore();
    const { size } = statSync(out);
    await expect(sink.write(new Uint8Array(10))).rejects.toMatchObject({ code: "connection-closed" });
    expect(statSync(out).size).toBe(size);
    expect(size).toBeLessThan(2 << 20);
    closeSync(fd);
    source.close();
  });

  test("a damaged end of the file: nothing is sent", async () => {
    const file = await snapshot();
    truncateSync(file, statSync(file).size - 20);
    let received = 0;
    const uri = await destination((socket) => {
      socket.on("data", (chunk) => (received += chunk.length));
    });
    await expect(sendSnapshot(file, parseMigrationUri(uri))).rejects.toBeInstanceOf(FormatError);
    expect(received).toBe(0);
  });
});

function sayFailed(socket: net.Socket): void {
  socket.resume();
  socket.write(shut(1));
}

function closeAtEnd(socket: net.Socket): void {
  socket.resume();
  socket.once("end", () => socket.end());
}

function closeAtOnce(socket: net.Socket): void {
  socket.destroy();
}
