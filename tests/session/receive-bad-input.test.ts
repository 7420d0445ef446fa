/** What `receive` does with input that is cut, damaged or hostile: a typed error, soon, and no file. */

import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import process from "node:process";
import { describe, expect, test } from "vitest";

import { parseMigrationUri } from "../../src/channels/index.js";
import {
  CancelledError,
  FormatError,
  MachineError,
  RamportError,
  UsageError,
} from "../../src/errors/index.js";
import { receiveSnapshot } from "../../src/session/index.js";
import { corpus, corpusPath, describeWithCorpus } from "../support/corpus.js";
import { readMappedRamContent } from "../support/mapped-ram-content.js";
import { Random } from "../support/random.js";
import { buildStream, type StreamPlace } from "../support/stream-builder.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
/** At once, also on a machine that is busy with other things. */
const LIMIT_MS = 5000;

/** Receives the bytes as a file; the error, or undefined when it went well. Checks what holds for every failure. */
async function receiveBytes(bytes: Uint8Array): Promise<RamportError | undefined> {
  const input = workDir.file("stream");
  writeFileSync(input, bytes);
  return receiveFrom(`file:${input}`);
}

async function receiveFrom(uri: string, signal?: AbortSignal): Promise<RamportError | undefined> {
  const startMs = performance.now();
  try {
    await receiveSnapshot(
      parseMigrationUri(uri),
      workDir.file("vm.ram"),
      signal === undefined ? {} : { signal },
    );
    return undefined;
  } catch (error) {
    expect(error, String(error)).toBeInstanceOf(RamportError);
    expect(performance.now() - startMs).toBeLessThan(LIMIT_MS);
    expect(readdirSync(workDir.path).filter((name) => name.includes("vm.ram"))).toEqual([]);
    return error as RamportError;
  }
}

function edit(bytes: Buffer, change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(bytes);
  change(copy);
  return copy;
}

describe("a stream that is cut off", () => {
  const { bytes, places } = buildStream({ early: true, returnPath: true });

  test("whole, it is received", async () => {
    expect(await receiveBytes(bytes)).toBeUndefined();
    expect(readMappedRamContent(workDir.file("vm.ram"))).toMatchObject({ presentPages: 4, stalePages: 0 });
  });

  test.each(Object.entries(places))("at %s (%i), before it and behind it", async (_place, at) => {
    for (const length of [at - 1, at, at + 1, at + 3]) {
      if (length < 0 || length >= bytes.length) continue;
      const error = await receiveBytes(bytes.subarray(0, length));
      if (length === places.description) {
        // An old machine type sends no description: this is whole, and its end is the EOF.
        expect(error).toBeUndefined();
        return;
      }
      expect(error, `length ${length}`).toBeInstanceOf(FormatError);
      expect(error).toHaveProperty("code", expect.stringMatching(/truncated|malformed|inconsistent/));
    }
  });

  test("at 150 other places", async () => {
    const random = new Random(7);
    for (let round = 0; round < 150; round++) {
      const length = random.below(bytes.length);
      if (length === places.description) continue;
      expect(await receiveBytes(bytes.subarray(0, length)), `length ${length}`).toBeInstanceOf(FormatError);
    }
  });

  test("with nothing in it", async () => {
    expect(await receiveBytes(new Uint8Array())).toMatchObject({ name: "FormatError", code: "truncated" });
  });
});

describe("a stream with changed bytes", () => {
  const { bytes, places } = buildStream({ early: true });

  test("300 single bits: received or a typed error, never anything else", async () => {
    const random = new Random(11);
    const frames = [...bytes.keys()].filter((at) => at < places.firstPage + 40 || at >= places.partEnd - 8);
    let refused = 0;
    for (let round = 0; round < 300; round++) {
      const at = random.pick(frames);
      const bit = random.below(8);
      const damaged = edit(bytes, (copy) => (copy[at]! ^= 1 << bit));
      const error = await receiveBytes(damaged).catch((thrown: unknown) => {
        throw new Error(`bit ${bit} of byte ${at}`, { cause: thrown });
      });
      if (error !== undefined) refused += 1;
      else rmSync(workDir.file("vm.ram"));
    }
    expect(refused).toBeGreaterThan(100);
  });

  const cases: readonly (readonly [string, StreamPlace, (copy: Buffer, at: number) => void, string])[] = [
    ["another magic", "header", (copy, at) => copy.writeUInt32BE(0x5145_564e, at), "malformed"],
    ["the obsolete version 2", "header", (copy, at) => copy.writeUInt32BE(2, at + 4), "unsupported"],
    ["version 4", "header", (copy, at) => copy.writeUInt32BE(4, at + 4), "unsupported"],
    ["no configuration", "configuration", (copy, at) => copy.writeUInt8(4, at), "unsupported"],
    [
      "a machine name of 4 GiB",
      "configuration",
      (copy, at) => copy.writeUInt32BE(0xffff_ffff, at + 1),
      "limit-exceeded",
    ],
    [
      "a machine name of no byte",
      "configuration",
      (copy, at) => copy.writeUInt32BE(0, at + 1),
      "limit-exceeded",
    ],
    ["a section of unknown type", "part", (copy, at) => copy.writeUInt8(0x55, at), "malformed"],
    ["RAM of version 5", "ram", (copy, at) => copy.writeUInt32BE(5, at + 13), "unsupported"],
    ["a total of 2^63", "blockList", (copy, at) => copy.writeUInt8(0x80, at), "limit-exceeded"],
    [
      "a total of 2^52",
      "blockList",
      (copy, at) => copy.writeUInt8(0x10, at + 1),
      "truncated|malformed|limit-exceeded",
    ],
    ["no block list", "blockList", (copy, at) => copy.writeUInt8(0x08, at + 7), "malformed"],
    [
      "a block of 2^60",
      "secondEntry",
      (copy, at) => copy.writeUInt8(0x10, at + 7),
      "limit-exceeded|inconsistent",
    ],
    [
      "a block name of 255",
      "secondEntry",
      (copy, at) => copy.writeUInt8(255, at),
      "malformed|limit-exceeded|inconsistent|truncated",
    ],
    [
      "a block of 5 bytes less",
      "secondEntry",
      (copy, at) => copy.writeUInt8(0xfb, at + 14),
      "malformed|inconsistent|truncated",
    ],
    ["a page behind its block", "firstPage", (copy, at) => copy.writeUInt8(0x10, at + 4), "malformed"],
    [
      "an unknown flag",
      "firstPage",
      (copy, at) => copy.writeUInt16BE(0x0808, at + 6),
      "malformed|unsupported",
    ],
    ["an unknown block", "firstPage", (copy, at) => copy.write("X", at + 9), "malformed"],
    ["a footer of another section", "partEnd", (copy, at) => copy.writeUInt32BE(77, at + 9), "malformed"],
    [
      "a section that is unknown behind RAM",
      "device",
      (copy, at) => copy.writeUInt8(0x33, at),
      "malformed|inconsistent|truncated",
    ],
    [
      "a device's footer of another section",
      "deviceFooter",
      (copy, at) => copy.writeUInt32BE(9, at + 1),
      "malformed|inconsistent|truncated",
    ],
    [
      "a description of 4 GiB",
      "description",
      (copy, at) => copy.writeUInt32BE(0xffff_ffff, at + 1),
      "malformed|inconsistent|truncated|limit-exceeded",
    ],
    [
      "a description that is no JSON",
      "descriptionText",
      (copy, at) => copy.write("{,", at),
      "malformed|inconsistent|truncated",
    ],
  ];

  test.each(cases)("%s", async (_what, place, change, code) => {
    const error = await receiveBytes(edit(bytes, (copy) => change(copy, places[place])));
    expect(error).toBeInstanceOf(FormatError);
    expect(error!.code).toMatch(new RegExp(`^(${code})$`));
  });
});

describe("absurd sizes", () => {
  test.each([2 ** 32 + 1, 2 ** 38])("a block of %i pages takes no memory and no time", async (pages) => {
    const before = process.memoryUsage().rss;
    const error = await receiveBytes(
      buildStream({ blocks: [["pc.ram", pages]], pages: [{ block: "pc.ram", page: 0, fill: 1 }] }).bytes,
    );
    expect(error).toMatchObject({ name: "FormatError", code: "limit-exceeded" });
    expect(process.memoryUsage().rss - before).toBeLessThan(200 << 20);
  });

  test("two blocks that are too large together", async () => {
    const blocks = [
      ["a", 2 ** 31],
      ["b", 2 ** 31 + 1],
    ] as const;
    const error = await receiveBytes(buildStream({ blocks, pages: [] }).bytes);
    expect(error).toMatchObject({ code: "limit-exceeded" });
  });
});

describe("what is no stream", () => {
  test("a directory", async () => {
    expect(await receiveFrom(`file:${workDir.path}`)).toBeInstanceOf(UsageError);
  });

  test("a file that is not there", async () => {
    const error = await receiveFrom(`file:${workDir.file("nothing")}`);
    expect(error).toBeInstanceOf(MachineError);
    expect(error?.message).toMatch(/does not exist/);
  });

  test("an offset behind the end", async () => {
    const input = workDir.file("stream");
    writeFileSync(input, buildStream().bytes);
    expect(await receiveFrom(`file:${input},offset=1G`)).toMatchObject({ code: "truncated" });
  });

  test("a descriptor that is not open", async () => {
    expect(await receiveFrom("fd:987")).toMatchObject({ code: "io" });
  });

  test("an existing output is left alone, and nothing is read", async () => {
    const output = workDir.file("vm.ram");
    writeFileSync(output, "mine");
    const uri = parseMigrationUri(`file:${workDir.file("nothing")}`);
    await expect(receiveSnapshot(uri, output)).rejects.toBeInstanceOf(UsageError);
    expect(readFileSync(output, "utf8")).toBe("mine");
  });

  test("a failure with replace leaves the old file as it was", async () => {
    const output = workDir.file("vm.ram");
    writeFileSync(output, "mine");
    const input = workDir.file("stream");
    writeFileSync(input, buildStream().bytes.subarray(0, 9000));
    const uri = parseMigrationUri(`file:${input}`);
    await expect(receiveSnapshot(uri, output, { replace: true })).rejects.toBeInstanceOf(FormatError);
    expect(readFileSync(output, "utf8")).toBe("mine");
    expect(readdirSync(workDir.path).sort()).toEqual(["stream", "vm.ram"]);
  });
});

describe("a socket", () => {
  const { bytes, places } = buildStream({ returnPath: true });

  /** Listens, connects, lets `act` do something with the connection. */
  async function overSocket(act: (socket: net.Socket) => void): Promise<RamportError | undefined> {
    const socketPath = workDir.file("in.sock");
    let startMs = 0;
    try {
      await receiveSnapshot(parseMigrationUri(`unix:${socketPath}`), workDir.file("vm.ram"), {
        onListening: () => {
          startMs = performance.now();
          const socket = net.connect(socketPath, () => act(socket));
          socket.on("error", () => undefined);
        },
      });
      return undefined;
    } catch (error) {
      expect(error).toBeInstanceOf(RamportError);
      expect(performance.now() - startMs).toBeLessThan(LIMIT_MS);
      expect(readdirSync(workDir.path)).toEqual([]);
      return error as RamportError;
    }
  }

  test("that closes in the middle of a page", async () => {
    const error = await overSocket((socket) => socket.end(bytes.subarray(0, places.firstPage + 1000)));
    expect(error).toMatchObject({ name: "FormatError", code: "truncated" });
  });

  test("that says nothing and closes", async () => {
    expect(await overSocket((socket) => socket.end())).toMatchObject({ code: "truncated" });
  });

  test("that is reset", async () => {
    const error = await overSocket((socket) => {
      socket.write(bytes.subarray(0, 5000), () => socket.destroy());
    });
    expect(error?.code).toMatch(/^(truncated|connection-closed)$/);
  });

  test("whose source does not hear that all is well: the file is taken back", async () => {
    const error = await overSocket((socket) => {
      // Everything is sent, and nobody is there for the answer. A ping would find that out too early.
      socket.end(buildStream({ returnPath: "silent" }).bytes, () => socket.destroy());
    });
    expect(error).toMatchObject({ name: "MachineError", code: "connection-closed" });
  });

  test("whose source does not hear that all is well: a file that was to be replaced is as it was", async () => {
    const output = workDir.file("vm.ram");
    writeFileSync(output, "mine");
    const socketPath = workDir.file("in.sock");
    const receiving = receiveSnapshot(parseMigrationUri(`unix:${socketPath}`), output, {
      replace: true,
      onListening: () => {
        const socket = net.connect(socketPath, () => {
          socket.end(buildStream({ returnPath: "silent" }).bytes, () => socket.destroy());
        });
        socket.on("error", () => undefined);
      },
    });
    await expect(receiving).rejects.toMatchObject({ name: "MachineError", code: "connection-closed" });
    expect(readFileSync(output, "utf8")).toBe("mine");
    expect(readdirSync(workDir.path)).toEqual(["vm.ram"]);
  });

  test.each([
    [
      "without a return path: a message says that it did not wait",
      false,
      [expect.stringMatching(/return path/)],
    ],
    ["with one: no message", true, []],
  ])("whose source is %s", async (_what, returnPath, expected) => {
    const socketPath = workDir.file("in.sock");
    const messages: string[] = [];
    await receiveSnapshot(parseMigrationUri(`unix:${socketPath}`), workDir.file("vm.ram"), {
      onMessage: (message) => messages.push(message),
      onListening: () => {
        const socket = net.connect(socketPath, () => socket.end(buildStream({ returnPath }).bytes));
        socket.on("error", () => undefined);
        socket.resume();
      },
    });
    expect(messages).toEqual(expected);
  });

  test("that is a channel of a migration over several", async () => {
    const error = await overSocket((socket) => socket.end(Buffer.from("1122334400000001", "hex")));
    expect(error).toMatchObject({ name: "FormatError", code: "unsupported" });
    expect(error?.message).toMatch(/turn the multifd capability off/);
  });

  test("whose source hears it has a file", async () => {
    const answers: Buffer[] = [];
    const error = await overSocket((socket) => {
      socket.on("data", (chunk: Buffer) => answers.push(chunk));
      socket.write(bytes);
    });
    expect(error).toBeUndefined();
    await expect
      .poll(() => Buffer.concat(answers).toString("hex"))
      .toBe("0002000400000007" + "0001000400000000");
    expect(readMappedRamContent(workDir.file("vm.ram")).presentPages).toBe(4);
  });

  test.each(["unix", "tcp"])("where nobody comes (%s), cancelled", async (kind) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    const uri = kind === "unix" ? `unix:${workDir.file("in.sock")}` : "tcp:127.0.0.1:0";
    expect(await receiveFrom(uri, controller.signal)).toBeInstanceOf(CancelledError);
    expect(readdirSync(workDir.path)).toEqual([]);
  });

  test("that stops in the middle, cancelled", async () => {
    const socketPath = workDir.file("in.sock");
    const controller = new AbortController();
    const receiving = receiveSnapshot(parseMigrationUri(`unix:${socketPath}`), workDir.file("vm.ram"), {
      signal: controller.signal,
      onListening: () => {
        const socket = net.connect(socketPath, () => socket.write(bytes.subarray(0, 6000)));
        socket.on("error", () => undefined);
        setTimeout(() => controller.abort(), 100);
      },
    });
    await expect(receiving).rejects.toBeInstanceOf(CancelledError);
    expect(readdirSync(workDir.path)).toEqual([]);
  });
});

describeWithCorpus("damaged streams of the corpus", () => {
  const broken = corpus?.broken.filter(({ name }) => name.startsWith("classic-")) ?? [];

  test("there are some", () => expect(broken.length).toBeGreaterThan(8));

  test.each(broken)("$name", async (facts) => {
    const error = await receiveFrom(`file:${corpusPath(facts)}`);
    expect(error).toBeInstanceOf(FormatError);
  });
});
