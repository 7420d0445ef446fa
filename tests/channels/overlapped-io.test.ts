import fs from "node:fs";
import path from "node:path";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { OutputFile, OverlappedIo, ReadableFile } from "../../src/channels/index.js";
import { MachineError } from "../../src/errors/index.js";

let directory: string;
beforeEach(() => (directory = fs.mkdtempSync(path.join(fs.realpathSync("/tmp"), "ramport-overlapped-"))));
afterEach(() => fs.rmSync(directory, { recursive: true, force: true }));

describe("OverlappedIo", () => {
  it("writes and reads many places of a file at a time", async () => {
    const file = path.join(directory, "file");
    const fd = fs.openSync(file, "w+");
    const io = new OverlappedIo(fd, file);
    const pieces = Array.from({ length: 40 }, (_, index) => new Uint8Array(1000).fill(index + 1));
    await Promise.all(pieces.map((piece, index) => io.write(piece, (39 - index) * 1000)));
    const read = pieces.map(() => new Uint8Array(1000));
    await Promise.all(read.map((target, index) => io.read(target, (39 - index) * 1000)));
    expect(read).toEqual(pieces);
    const pastEnd = new Uint8Array(2000);
    expect(await io.read(pastEnd, 39_000)).toBe(1000);
    io.whenIdle(() => fs.closeSync(fd));
  });

  it("closes only when the last operation has ended", async () => {
    const file = path.join(directory, "file");
    const fd = fs.openSync(file, "w+");
    const io = new OverlappedIo(fd, file);
    const order: string[] = [];
    const writing = io.write(new Uint8Array(1 << 20).fill(7), 0).then(() => order.push("written"));
    const closed = new Promise<void>((resolve) =>
      io.whenIdle(() => {
        order.push("closed");
        fs.closeSync(fd);
        resolve();
      }),
    );
    expect(order).toEqual([]);
    await Promise.all([writing, closed]);
    expect(order).toHaveLength(2);
    expect(fs.statSync(file).size).toBe(1 << 20);
  });

  it("names the file in a failure", async () => {
    const file = path.join(directory, "file");
    fs.writeFileSync(file, "x");
    const fd = fs.openSync(file, "r");
    const io = new OverlappedIo(fd, file);
    await expect(io.write(new Uint8Array(1), 0)).rejects.toThrow(MachineError);
    await expect(io.write(new Uint8Array(1), 0)).rejects.toMatchObject({ data: { path: file } });
    io.whenIdle(() => fs.closeSync(fd));
  });
});

it("a file that is thrown away while it is written to gives its descriptor back", async () => {
  const before = fs.readdirSync("/proc/self/fd").length;
  const output = OutputFile.create(path.join(directory, "output"));
  const writing = output.startWrite(new Uint8Array(4 << 20).fill(1), 0);
  output.discard();
  await writing;
  expect(fs.readdirSync("/proc/self/fd")).toHaveLength(before);
  expect(fs.readdirSync(directory)).toEqual([]);
});

it("a file that is closed while it is read gives its descriptor back", async () => {
  const name = path.join(directory, "input");
  fs.writeFileSync(name, "memory");
  const before = fs.readdirSync("/proc/self/fd").length;
  const file = ReadableFile.open(name);
  const target = new Uint8Array(6);
  const reading = file.startRead(target, 0);
  file.close();
  expect(await reading).toBe(6);
  expect(new TextDecoder().decode(target)).toBe("memory");
  expect(fs.readdirSync("/proc/self/fd")).toHaveLength(before);
});
