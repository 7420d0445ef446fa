import { spawnSync } from "node:child_process";
import fs, {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import process from "node:process";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";

import {
  type IncomingFile,
  openIncoming,
  openOutgoing,
  type OutgoingChannel,
  type OutgoingFile,
  parseMigrationUri,
} from "../../src/channels/index.js";
import { MachineError, UsageError } from "../../src/errors/index.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const CLOSED = { name: "MachineError", code: "connection-closed" };

type Sets = ReadonlyMap<number, readonly number[]>;

async function outgoing(uri: string, descriptorSets?: Sets): Promise<OutgoingChannel> {
  const options = descriptorSets === undefined ? {} : { descriptorSets };
  const channel = await openOutgoing(parseMigrationUri(uri), options);
  onTestFinished(() => channel.sink.close());
  return channel;
}

async function outgoingFile(uri: string, descriptorSets?: Sets): Promise<OutgoingFile> {
  const { file } = await outgoing(uri, descriptorSets);
  expect(file).toBeDefined();
  return file!;
}

function put(file: OutgoingFile, text: string, position: number): void {
  const bytes = Buffer.from(`<${text}>`);
  file.writeAt(bytes, 1, bytes.length - 2, position);
}

function content(name: string): string {
  return readFileSync(workDir.file(name), "latin1");
}

/** Opens a file of the work folder for as long as the test runs. */
function opened(name: string, flags: number | string): number {
  const fd = openSync(workDir.file(name), flags);
  onTestFinished(() => {
    if (isOpen(fd)) closeSync(fd);
  });
  return fd;
}

function isOpen(fd: number): boolean {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
}

describe("a migration into a file", () => {
  test("makes it, for its owner alone, and writes from front to back", async () => {
    const { sink, returnPath } = await outgoing(`file:${workDir.file("out")}`);
    expect(returnPath).toBeUndefined();
    await sink.write(Buffer.from("one "));
    await sink.write(Buffer.from("two"));
    await sink.end();
    await sink.close();
    expect(content("out")).toBe("one two");
    expect(statSync(workDir.file("out")).mode & 0o777).toBe(0o600);
  });

  test("keeps what stands before its offset, cuts the rest off, and fills up to it with zeros", async () => {
    writeFileSync(workDir.file("out"), "header, and what was there");
    const first = await outgoing(`file:${workDir.file("out")},offset=6`);
    expect(content("out")).toBe("header");
    expect(first.file?.startOffset).toBe(6);
    await first.sink.write(Buffer.from(" stream"));
    await first.sink.end();
    await first.sink.close();
    expect(content("out")).toBe("header stream");
    const second = await outgoing(`file:${workDir.file("out")},offset=16`);
    await second.sink.write(Buffer.from("x"));
    await second.sink.end();
    await second.sink.close();
    expect(content("out")).toBe("header stream\0\0\0x");
  });

  test("a second one over the first replaces it as a whole, and leaves its mode alone", async () => {
    for (const text of ["a long first one", "second"]) {
      const { sink } = await outgoing(`file:${workDir.file("out")}`);
      await sink.write(Buffer.from(text));
      await sink.end();
      await sink.close();
      expect(content("out")).toBe(text);
      chmodSync(workDir.file("out"), 0o640);
    }
    expect(statSync(workDir.file("out")).mode & 0o777).toBe(0o640);
  });

  test("goes through a symbolic link, and to a path with a comma", async () => {
    symlinkSync("a,b", workDir.file("link"));
    const { sink } = await outgoing(`file:${workDir.file("link")}`);
    await sink.write(Buffer.from("there"));
    await sink.end();
    await sink.close();
    expect(content("a,b")).toBe("there");
  });

  test("any place can be written, zeroed, read back; that leaves the sink's place alone", async () => {
    const { sink, file } = await outgoing(`file:${workDir.file("out")},offset=4`);
    await sink.write(Buffer.from("head"));
    put(file!, "pages", 100_000);
    await sink.write(Buffer.from("more"));
    expect(file!.sizeBytes).toBe(100_005);
    const back = Buffer.alloc(10);
    expect(file!.readAt(back, 100_001)).toBe(4);
    expect(back.toString("latin1", 0, 4)).toBe("ages");
    file!.zeroAt(100_001, 3);
    file!.truncate(100_006);
    await file!.sync();
    await file!.close();
    expect(content("out")).toBe(`\0\0\0\0headmore${"\0".repeat(100_000 - 12)}p\0\0\0s\0`);
  });

  test("larger than any buffer, from one that is reused", async () => {
    const { sink } = await outgoing(`file:${workDir.file("out")}`);
    const buffer = Buffer.alloc(1 << 20);
    for (let round = 1; round <= 5; round++) await sink.write(buffer.fill(round));
    await sink.end();
    await sink.close();
    const back = readFileSync(workDir.file("out"));
    expect(back.length).toBe(5 << 20);
    for (let round = 0; round < 5; round++) {
      expect(back.subarray(round << 20, (round + 1) << 20).every((byte) => byte === round + 1)).toBe(true);
    }
  });
});

describe("a migration into a file that does not become whole", () => {
  test("discarded, nothing stays behind the offset, even when it was synced", async () => {
    writeFileSync(workDir.file("out"), "header");
    const file = await outgoingFile(`file:${workDir.file("out")},offset=6`);
    put(file, "whole", 6);
    await file.sync();
    await file.discard();
    expect(content("out")).toBe("header");
    await file.discard();
    await file.close();
    expect(content("out")).toBe("header");
  });

  test.each(["without end", "with a write after end"])("closed %s, nothing stays either", async (how) => {
    const { sink, file } = await outgoing(`file:${workDir.file("out")}`);
    await sink.write(Buffer.from("half"));
    if (how !== "without end") {
      await sink.end();
      put(file!, "x", 10);
    }
    await sink.close();
    expect(content("out")).toBe("");
  });

  test("closed in the middle of a write or of the sync: that fails, and nothing stays", async () => {
    for (const what of ["write", "end"] as const) {
      const { sink } = await outgoing(`file:${workDir.file("out")}`);
      await sink.write(Buffer.from("begin"));
      const running = what === "write" ? sink.write(Buffer.alloc(8 << 20, 1)) : sink.end();
      const failing = expect(running).rejects.toMatchObject(CLOSED);
      await sink.close();
      await failing;
      expect(content("out")).toBe("");
    }
  });

  test("closed and then discarded at once, it is discarded; after a good end and close it stays", async () => {
    const first = await outgoingFile(`file:${workDir.file("out")}`);
    put(first, "whole", 0);
    await first.sync();
    const closing = first.close();
    await first.discard();
    await closing;
    expect(content("out")).toBe("");
    const second = await outgoingFile(`file:${workDir.file("out")}`);
    put(second, "whole", 0);
    await second.sync();
    await second.close();
    await second.discard();
    expect(content("out")).toBe("whole");
  });

  test("closed, nothing more reaches a descriptor that may be another file's by now", async () => {
    const { sink, file } = await outgoing(`file:${workDir.file("out")}`);
    await sink.end();
    await sink.close();
    const other = opened("other", "w+");
    expect(() => put(file!, "x", 0)).toThrow(MachineError);
    expect(() => file!.zeroAt(0, 1)).toThrow(MachineError);
    expect(() => file!.truncate(10)).toThrow(MachineError);
    expect(() => file!.readAt(Buffer.alloc(1), 0)).toThrow(MachineError);
    expect(() => file!.sizeBytes).toThrow(MachineError);
    await expect(sink.write(Buffer.from("x"))).rejects.toMatchObject(CLOSED);
    await expect(sink.end()).rejects.toMatchObject(CLOSED);
    expect(fstatSync(other).size).toBe(0);
  });
});

describe("the end of a migration into a file", () => {
  afterEach(() => void vi.restoreAllMocks());

  test("is when the device has it", async () => {
    const { sink } = await outgoing(`file:${workDir.file("out")}`);
    await sink.write(Buffer.from("content"));
    const synced = vi.spyOn(fs, "fsync");
    await sink.end();
    expect(synced).toHaveBeenCalledOnce();
    await sink.close();
    expect(content("out")).toBe("content");
  });

  test("fails when the device does, and nothing stays", async () => {
    const { sink } = await outgoing(`file:${workDir.file("out")}`);
    await sink.write(Buffer.from("content"));
    vi.spyOn(fs, "fsync").mockImplementation((_fd, callback) => {
      callback(Object.assign(new Error("EIO"), { code: "EIO" }));
    });
    await expect(sink.end()).rejects.toMatchObject({ name: "MachineError", code: "io" });
    await sink.close();
    expect(content("out")).toBe("");
  });
});

describe("no room", () => {
  const mounted: string[] = [];
  // Before the work folder is removed.
  afterEach(() => {
    for (const folder of mounted.splice(0)) spawnSync("umount", ["-l", folder]);
  });

  test("a device that is full, by descriptor", async () => {
    const { sink, file } = await outgoing(`fd:${openSync("/dev/full", "w")}`);
    expect(file).toBeUndefined();
    await expect(sink.write(Buffer.from("x"))).rejects.toMatchObject({
      name: "MachineError",
      code: "io",
      message: expect.stringContaining("no space is left") as string,
    });
  });

  const isRoot = process.getuid?.() === 0;
  test.skipIf(!isRoot)(
    `a file system that becomes full, by either way of writing${isRoot ? "" : " (skipped: not root)"}`,
    async ({ skip }) => {
      const folder = workDir.file("small");
      mkdirSync(folder);
      if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "none", folder]).status !== 0) {
        skip("this user may not mount a small file system");
      }
      mounted.push(folder);
      const full = {
        name: "MachineError",
        code: "io",
        message: expect.stringContaining("no space is left") as string,
      };
      const { sink, file } = await outgoing(`file:${folder}/out`);
      await expect(sink.write(Buffer.alloc(2 << 20, 1))).rejects.toMatchObject(full);
      let thrown: unknown;
      try {
        put(file!, "x".repeat(2 << 20), 0);
      } catch (error) {
        thrown = error;
      }
      expect(thrown).toMatchObject(full);
      await sink.close();
      expect(statSync(`${folder}/out`).size).toBe(0);
    },
  );
});

describe("what a migration cannot go to", () => {
  test.each([
    ["a pipe", "UsageError", /is a pipe, not a file/],
    ["a folder", "MachineError", /is a directory/],
    ["a device", "UsageError", /is no regular file/],
    ["a path through a file", "MachineError", /has a part that is no directory/],
  ])("%s", async (what, name, message) => {
    const place = workDir.file("place");
    if (what === "a pipe") spawnSync("mkfifo", [place]);
    if (what === "a folder") mkdirSync(place);
    if (what === "a path through a file") writeFileSync(place, "kept");
    const path = { "a device": "/dev/null", "a path through a file": `${place}/out` }[what] ?? place;
    const descriptors = readdirSync("/proc/self/fd").length;
    const opening = openOutgoing(parseMigrationUri(`file:${path}`));
    await expect(opening).rejects.toMatchObject({ name, message: expect.stringMatching(message) as string });
    expect(readdirSync("/proc/self/fd").length).toBe(descriptors);
  });

  test("an offset that the file system does not know", async () => {
    const opening = openOutgoing(parseMigrationUri(`file:${workDir.file("out")},offset=7P`));
    await expect(opening).rejects.toMatchObject({ name: "MachineError", code: "io" });
    await expect(opening).rejects.toThrow(/^Truncating failed/);
  });
});

describe("a migration from a file", () => {
  async function incomingFile(uri: string, descriptorSets?: Sets): Promise<IncomingFile> {
    const options = descriptorSets === undefined ? {} : { descriptorSets };
    const { file } = await openIncoming(parseMigrationUri(uri), options);
    expect(file).toBeDefined();
    onTestFinished(() => file!.close());
    return file!;
  }

  test("from its offset front to back, and at any place; closing one closes both", async () => {
    writeFileSync(workDir.file("in"), "header stream");
    const { source, file, returnPath } = await openIncoming(
      parseMigrationUri(`file:${workDir.file("in")},offset=7`),
    );
    expect(returnPath).toBeUndefined();
    expect(file).toMatchObject({ startOffset: 7, sizeBytes: 13 });
    const target = Buffer.alloc(20);
    expect(file!.readAt(target, 2)).toBe(11);
    expect(await source.read(target)).toBe(6);
    expect(target.toString("latin1", 0, 6)).toBe("stream");
    expect(await source.read(target)).toBe(0);
    await file!.close();
    await expect(source.read(target)).rejects.toMatchObject(CLOSED);
    expect(() => file!.readAt(target, 0)).toThrow(MachineError);
    expect(content("in")).toBe("header stream");
  });

  test("an offset behind its end: there is nothing", async () => {
    writeFileSync(workDir.file("in"), "short");
    const { source } = await openIncoming(parseMigrationUri(`file:${workDir.file("in")},offset=1M`));
    expect(await source.read(Buffer.alloc(1))).toBe(0);
    await source.close();
  });

  test("by descriptor: from where that stands, which front to back moves and reading at a place does not", async () => {
    writeFileSync(workDir.file("in"), "header stream");
    const fd = opened("in", "r");
    readSync(fd, Buffer.alloc(7), 0, 7, null);
    const { source, file } = await openIncoming(parseMigrationUri(`fd:${fd}`));
    expect(file?.startOffset).toBe(7);
    const target = Buffer.alloc(6);
    expect(file!.readAt(target, 0)).toBe(6);
    expect(await source.read(target.subarray(0, 3))).toBe(3);
    expect(readSync(fd, target, 3, 3, null)).toBe(3);
    expect(target.toString()).toBe("stream");
    await source.close();
    expect(isOpen(fd)).toBe(false);
  });

  test("by descriptor set: one that is open for reading only comes first, and stays open", async () => {
    writeFileSync(workDir.file("in"), "header stream");
    const writing = opened("in", "r+");
    const reading = opened("in", "r");
    const file = await incomingFile("file:/dev/fdset/7,offset=7", new Map([[7, [writing, reading]]]));
    closeSync(writing);
    const target = Buffer.alloc(6);
    expect(file.readAt(target, 7)).toBe(6);
    expect(target.toString()).toBe("stream");
    await file.close();
    expect(readSync(reading, target, 0, 6, null)).toBe(6);
    expect(target.toString()).toBe("header");
  });

  test("by descriptor set: one that is open for both does", async () => {
    writeFileSync(workDir.file("in"), "stream");
    const both = opened("in", "r+");
    const file = await incomingFile("file:/dev/fdset/0", new Map([[0, [opened("in", "a"), both]]]));
    expect(file.readAt(Buffer.alloc(6), 0)).toBe(6);
  });
});

describe("a migration into a file by descriptor", () => {
  test("begins where the descriptor stands, keeps what is there, and moves it on", async () => {
    writeFileSync(workDir.file("out"), "header, and what was there");
    const fd = opened("out", "r+");
    writeSync(fd, "HEADER");
    const { sink, file } = await outgoing(`fd:${fd}`);
    expect(file?.startOffset).toBe(6);
    await sink.write(Buffer.from("> stream"));
    put(file!, "THERE", 21);
    await sink.write(Buffer.from("!"));
    await sink.end();
    writeSync(fd, "?");
    expect(content("out")).toBe("HEADER> stream!? was THERE");
    await sink.close();
    expect(isOpen(fd)).toBe(false);
    // It was not emptied, so nothing is taken away either.
    expect(content("out")).toBe("HEADER> stream!? was THERE");
  });

  test("discarded, it is cut off where it began", async () => {
    const fd = opened("out", "w+");
    writeSync(fd, "header");
    const file = await outgoingFile(`fd:${fd}`);
    put(file, "stream", 6);
    await file.discard();
    expect(content("out")).toBe("header");
  });

  test("one that appends has no places: it is written from front to back only", async () => {
    writeFileSync(workDir.file("out"), "header ");
    const { sink, file } = await outgoing(`fd:${opened("out", "a")}`);
    expect(file).toBeUndefined();
    await sink.write(Buffer.from("stream"));
    await sink.end();
    await sink.close();
    expect(content("out")).toBe("header stream");
  });

  test("one that is open for writing only cannot be read back, and says so", async () => {
    const file = await outgoingFile(`fd:${opened("out", "w")}`);
    put(file, "x", 0);
    expect(() => file.readAt(Buffer.alloc(1), 0)).toThrow(/open for writing only/);
  });

  test.each([
    ["writing into one that is open for reading", openOutgoing, "r", /open for reading only/],
    ["reading from one that is open for writing", openIncoming, "a", /open for writing only/],
  ] as const)("%s is refused", async (_what, open, flags, message) => {
    writeFileSync(workDir.file("f"), "kept");
    const opening = open(parseMigrationUri(`fd:${opened("f", flags)}`));
    await expect(opening).rejects.toBeInstanceOf(UsageError);
    await expect(opening).rejects.toThrow(message);
    expect(content("f")).toBe("kept");
  });
});

describe("a migration into a descriptor set", () => {
  const WRITE_ONLY = constants.O_WRONLY | constants.O_CREAT;

  test("takes the descriptor for writing only, cuts the file off at the offset, and stays open", async () => {
    writeFileSync(workDir.file("out"), "header, and what was there");
    const fds = [opened("out", "r"), opened("other", "w+"), opened("out", WRITE_ONLY)];
    const { sink, file } = await outgoing("file:/dev/fdset/3,offset=6", new Map([[3, fds]]));
    await sink.write(Buffer.from(" stream"));
    put(file!, "tail", 13);
    await sink.end();
    await sink.close();
    expect(content("out")).toBe("header streamtail");
    expect(content("other")).toBe("");
    expect(fds.every(isOpen)).toBe(true);
  });

  test("takes one for both where there is no other, and can then read back", async () => {
    const fds = [opened("out", "w+")];
    const file = await outgoingFile("file:/dev/fdset/3", new Map([[3, fds]]));
    put(file, "there", 0);
    expect(file.readAt(Buffer.alloc(9), 0)).toBe(5);
    await file.discard();
    expect(content("out")).toBe("");
    expect(isOpen(fds[0]!)).toBe(true);
  });

  test("one that appends is written from front to back only, and cut off again when it is not whole", async () => {
    writeFileSync(workDir.file("out"), "header, and more");
    const sets = new Map([[3, [opened("out", "a")]]]);
    const { sink, file } = await outgoing("file:/dev/fdset/3,offset=6", sets);
    expect(file).toBeUndefined();
    await sink.write(Buffer.from(" stream"));
    expect(content("out")).toBe("header stream");
    await sink.close();
    expect(content("out")).toBe("header");
  });

  test.each([
    ["no sets at all", "3", undefined, /There is no descriptor set \/dev\/fdset\/3/],
    ["no such set", "3", [4], /There is no descriptor set/],
    ["no number", "x", [3], /There is no descriptor set/],
    ["nothing in it", "3", [3], /No descriptor in \/dev\/fdset\/3 is open for writing/],
  ] as const)("%s", async (_what, name, numbers, message) => {
    const sets = numbers === undefined ? undefined : new Map(numbers.map((number) => [number, []]));
    const opening = outgoing(`file:/dev/fdset/${name}`, sets);
    await expect(opening).rejects.toBeInstanceOf(UsageError);
    await expect(opening).rejects.toThrow(message);
    expect(existsSync("/dev/fdset")).toBe(false);
  });

  test("nothing that fits, in either direction: nothing is touched", async () => {
    writeFileSync(workDir.file("f"), "kept");
    const sets = new Map([
      [1, [opened("f", "r")]],
      [2, [opened("f", "a")]],
    ]);
    await expect(outgoing("file:/dev/fdset/1", sets)).rejects.toThrow(/open for writing.*O_WRONLY/);
    const reading = openIncoming(parseMigrationUri("file:/dev/fdset/2"), { descriptorSets: sets });
    await expect(reading).rejects.toThrow(/open for reading.*O_RDONLY/);
    expect(content("f")).toBe("kept");
  });

  test("one that was closed meanwhile, and a pipe, which stays open", async () => {
    const gone = opened("f", "w");
    closeSync(gone);
    await expect(outgoing("file:/dev/fdset/1", new Map([[1, [gone]]]))).rejects.toThrow(/no open descriptor/);
    spawnSync("mkfifo", [workDir.file("fifo")]);
    const pipe = opened("fifo", constants.O_RDWR | constants.O_NONBLOCK);
    const sets = new Map([[1, [pipe]]]);
    await expect(outgoing("file:/dev/fdset/1", sets)).rejects.toThrow(/is a pipe.*fd:N/);
    const reading = openIncoming(parseMigrationUri("file:/dev/fdset/1"), { descriptorSets: sets });
    await expect(reading).rejects.toThrow(/is a pipe.*fd:N/);
    expect(isOpen(pipe)).toBe(true);
  });
});

test("a file that this user may only write", async () => {
  const isRoot = process.geteuid?.() === 0;
  writeFileSync(workDir.file("out"), "old");
  chmodSync(workDir.file("out"), 0o222);
  chmodSync(workDir.path, 0o755);
  // Root may read everything.
  if (isRoot) process.seteuid?.(65_534);
  try {
    const { sink, file } = await outgoing(`file:${workDir.file("out")}`);
    await sink.write(Buffer.from("new"));
    expect(() => file!.readAt(Buffer.alloc(1), 0)).toThrow(/open for writing only/);
    await sink.end();
    await sink.close();
  } finally {
    if (isRoot) process.seteuid?.(0);
  }
  chmodSync(workDir.file("out"), 0o600);
  expect(content("out")).toBe("new");
});
