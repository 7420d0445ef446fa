import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import process from "node:process";
import { describe, expect, onTestFinished, test } from "vitest";

import {
  type ByteSink,
  type ByteSource,
  openIncoming,
  openOutgoing,
  parseMigrationUri,
} from "../../src/channels/index.js";
import { UsageError } from "../../src/errors/index.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

async function sinkTo(command: string): Promise<ByteSink> {
  const channel = await openOutgoing(parseMigrationUri(`exec:cd ${workDir.path}; ${command}`));
  onTestFinished(() => channel.sink.close());
  expect(channel).toEqual({ sink: channel.sink });
  return channel.sink;
}

async function sourceFrom(command: string): Promise<ByteSource> {
  const channel = await openIncoming(parseMigrationUri(`exec:cd ${workDir.path}; ${command}`));
  onTestFinished(() => channel.source.close());
  expect(channel).toEqual({ source: channel.source });
  return channel.source;
}

async function readAll(source: ByteSource): Promise<Buffer> {
  const parts: Buffer[] = [];
  const target = Buffer.alloc(100_000);
  for (let count = await source.read(target); count > 0; count = await source.read(target)) {
    parts.push(Buffer.from(target.subarray(0, count)));
  }
  return Buffer.concat(parts);
}

/** Writes until that fails. */
async function writeOn(sink: ByteSink): Promise<never> {
  const bytes = Buffer.alloc(1 << 20);
  while (true) await sink.write(bytes);
}

/** A line for the shell, by which it says its process number to this process; the returned promise has it. */
async function announcing(): Promise<{ readonly line: string; readonly pid: Promise<number> }> {
  const server = net.createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const pid = once(server, "connection").then(async ([socket]: net.Socket[]) => {
    const [text] = (await once(socket!, "data")) as [Buffer];
    socket!.destroy();
    return Number(text.toString());
  });
  const { port } = server.address() as net.AddressInfo;
  const script = `require("net").connect(${port}, "127.0.0.1").end(process.argv[1])`;
  return { line: `'${process.execPath}' -e '${script}' $$`, pid };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

const failure = (code: string, message: RegExp): object => ({
  name: "MachineError",
  code,
  message: expect.stringMatching(message) as string,
});

describe("a migration into a command", () => {
  test("it gets everything, and its end is waited for", async () => {
    const sink = await sinkTo("cat > out; sleep 0.2; echo done > done");
    const sent = Buffer.from(Uint32Array.from({ length: 1 << 20 }, (_, index) => index).buffer);
    const buffer = Buffer.alloc(1 << 20);
    for (let at = 0; at < sent.length; at += buffer.length) {
      sent.copy(buffer, 0, at, at + buffer.length);
      await sink.write(buffer);
    }
    await sink.end();
    expect(readFileSync(workDir.file("out")).equals(sent)).toBe(true);
    expect(existsSync(workDir.file("done"))).toBe(true);
    await sink.close();
  });

  test("a program with its arguments, without a shell", async () => {
    const out = workDir.file("a $HOME b");
    const { sink } = await openOutgoing({ kind: "exec", args: ["tee", out] });
    await sink.write(Buffer.from("content"));
    await sink.end();
    await sink.close();
    expect(readFileSync(out, "utf8")).toBe("content");
  });

  test("one that fails at its end: its exit status, and what it said last", async () => {
    const sink = await sinkTo("cat > /dev/null; seq 1 1000 >&2; echo 'no room: \x1b[31m' >&2; exit 3");
    await sink.write(Buffer.from("x"));
    await expect(sink.end()).rejects.toMatchObject(
      failure("io", /ended with exit status 3 \(exec:.*\): .*1000.*no room: \\u\{1b\}\[31m$/),
    );
  });

  test("one that fails in the middle says why, instead of a broken pipe", async () => {
    const sink = await sinkTo("head -c 10 > /dev/null; echo 'enough of it' >&2; exit 4");
    await expect(writeOn(sink)).rejects.toMatchObject(failure("io", /exit status 4 .*: enough of it$/));
    await expect(sink.end()).rejects.toMatchObject(failure("io", /exit status 4/));
  });

  test("one that ends well without reading everything has failed too", async () => {
    const sink = await sinkTo("head -c 10 > /dev/null");
    await expect(writeOn(sink)).rejects.toMatchObject(
      failure("connection-closed", /ended before it had read everything/),
    );
  });

  test("one that is killed", async () => {
    const sink = await sinkTo("kill -9 $$");
    await expect(sink.end()).rejects.toMatchObject(failure("io", /ended by SIGKILL/));
  });

  test("one that leaves a child behind, which holds on to standard error, has ended all the same", async () => {
    const { line, pid } = await announcing();
    const sink = await sinkTo(
      `(exec sh -c "${line.replaceAll('"', String.raw`\"`).replace("$$", String.raw`\$\$`)}; exec sleep 100") < /dev/null & cat > out`,
    );
    const child = await pid;
    onTestFinished(() => void process.kill(child));
    await sink.write(Buffer.from("content"));
    await sink.end();
    expect(isAlive(child)).toBe(true);
    expect(readFileSync(workDir.file("out"), "utf8")).toBe("content");
  });

  test("one that never reads: closing ends the write that waits, and the command", async () => {
    const { line, pid } = await announcing();
    const sink = await sinkTo(`${line}; exec sleep 100`);
    const child = await pid;
    const writing = expect(writeOn(sink)).rejects.toMatchObject({
      name: "MachineError",
      code: "connection-closed",
    });
    await sink.close();
    await writing;
    expect(isAlive(child)).toBe(false);
  });

  test("one that does not listen to SIGTERM is killed, and end() does not take that for an end", async () => {
    const { line, pid } = await announcing();
    const sink = await sinkTo(`trap '' TERM; ${line}; cat > out; while :; do sleep 0.1; done`);
    const child = await pid;
    const ending = expect(sink.end()).rejects.toMatchObject(failure("connection-closed", /was stopped/));
    await sink.close();
    await ending;
    expect(isAlive(child)).toBe(false);
  });
});

describe("a migration from a command", () => {
  test("everything it writes, to its end", async () => {
    const sent = Buffer.from(Uint32Array.from({ length: 1 << 20 }, (_, index) => index).buffer);
    writeFileSync(workDir.file("in"), sent);
    const source = await sourceFrom("cat in");
    expect((await readAll(source)).equals(sent)).toBe(true);
    expect(await source.read(Buffer.alloc(1))).toBe(0);
    await source.close();
  });

  test("its standard input is empty", async () => {
    expect((await readAll(await sourceFrom("cat; echo end"))).toString()).toBe("end\n");
  });

  test("the end of one that fails is no end of the stream", async () => {
    const source = await sourceFrom("printf half; echo 'the disk is gone' >&2; exit 5");
    const target = Buffer.alloc(10);
    expect(await source.read(target)).toBe(4);
    const reading = source.read(target);
    await expect(reading).rejects.toMatchObject(failure("io", /exit status 5 .*: the disk is gone$/));
  });

  test("a program that is not there, by the shell and without it", async () => {
    const source = await sourceFrom("exec no-such-program-here");
    await expect(source.read(Buffer.alloc(1))).rejects.toMatchObject(failure("io", /exit status 127/));
    const descriptors = { kind: "exec", args: ["./no-such-program-here"] } as const;
    await expect(openIncoming(descriptors)).rejects.toMatchObject(failure("io", /does not exist/));
    await expect(openOutgoing(descriptors)).rejects.toMatchObject(failure("io", /does not exist/));
  });

  test("no program, or one that cannot be", async () => {
    await expect(openIncoming({ kind: "exec", args: [] })).rejects.toBeInstanceOf(UsageError);
    mkdirSync(workDir.file("folder"));
    const opening = openIncoming({ kind: "exec", args: [workDir.file("folder")] });
    await expect(opening).rejects.toMatchObject(failure("io", /may not be accessed/));
    await expect(openIncoming({ kind: "exec", args: ["a\0b"] })).rejects.toMatchObject({
      name: "MachineError",
      code: "io",
    });
  });

  test("closed, one that never writes is ended, and a read that waits fails", async () => {
    const { line, pid } = await announcing();
    const source = await sourceFrom(`${line}; exec sleep 100`);
    const child = await pid;
    const reading = expect(source.read(Buffer.alloc(1))).rejects.toMatchObject({
      name: "MachineError",
      code: "connection-closed",
    });
    await source.close();
    await reading;
    expect(isAlive(child)).toBe(false);
  });

  test("closed when all that was wanted was read, it may still do what it has to do", async () => {
    const source = await sourceFrom("printf stream; sleep 0.1; echo done > done");
    expect(await source.read(Buffer.alloc(6))).toBe(6);
    await source.close();
    expect(readFileSync(workDir.file("done"), "utf8")).toBe("done\n");
  });
});
