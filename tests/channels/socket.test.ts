import { getEventListeners } from "node:events";
import { readdirSync } from "node:fs";
import net from "node:net";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";

import { connectSocket, SocketChannel, SocketListener } from "../../src/channels/index.js";
import { CancelledError, MachineError } from "../../src/errors/index.js";
import { socketPair } from "../support/socket-pair.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

const pair = (): ReturnType<typeof socketPair> => socketPair(workDir.file("s"));

async function readAll(channel: SocketChannel): Promise<Buffer> {
  const parts: Buffer[] = [];
  const target = Buffer.alloc(70_000);
  for (let count = await channel.read(target); count > 0; count = await channel.read(target)) {
    parts.push(Buffer.from(target.subarray(0, count)));
  }
  return Buffer.concat(parts);
}

describe("SocketChannel", () => {
  test("carries more than fits anywhere, in order, to its end", async () => {
    const { near, far } = await pair();
    const sent = Buffer.from(Uint32Array.from({ length: 3 << 20 }, (_, index) => index).buffer);
    const received = readAll(far);
    const buffer = Buffer.alloc(1 << 20);
    for (let at = 0; at < sent.length; at += buffer.length) {
      // The buffer is reused as soon as the promise says so.
      sent.copy(buffer, 0, at, at + buffer.length);
      await near.write(buffer);
    }
    buffer.fill(0);
    await near.end();
    expect((await received).equals(sent)).toBe(true);
  });

  test("a slow reader slows the writer down", async () => {
    const { near, far } = await pair();
    const buffer = Buffer.alloc(1 << 20);
    let written = 0;
    const writing = (async () => {
      for (; written < 64; written++) await near.write(buffer);
      await near.end();
    })();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(written).toBeLessThan(16);
    expect((await readAll(far)).length).toBe(64 << 20);
    await writing;
  });

  test("half open: the answer comes after the end of what was said", async () => {
    const { near, far } = await pair();
    await near.write(Buffer.from("question"));
    await near.end();
    expect((await readAll(far)).toString()).toBe("question");
    await far.write(Buffer.from("answer"));
    await far.end();
    expect((await readAll(near)).toString()).toBe("answer");
  });

  test("closing ends a read that waits; writing afterwards fails", async () => {
    const { near } = await pair();
    const reading = near.read(Buffer.alloc(10));
    await near.close();
    await expect(reading).rejects.toMatchObject({ name: "MachineError", code: "connection-closed" });
    await expect(near.write(Buffer.from("x"))).rejects.toMatchObject({ code: "connection-closed" });
    await near.close();
  });

  test("a peer that is gone: writing says so", async () => {
    const { near, far } = await pair();
    await far.close();
    const writing = (async () => {
      for (let round = 0; round < 100; round++) await near.write(Buffer.alloc(100_000));
    })();
    await expect(writing).rejects.toMatchObject({ name: "MachineError", code: "connection-closed" });
  });
});

/** What Node keeps behind a socket. */
interface WithHandle {
  readonly _handle: { useUserBuffer?: unknown };
}

describe.each(["with the reused buffer", "without it, as on another Node"])("SocketChannel %s", (way) => {
  /** A channel whose peer is a plain socket. */
  async function connected(): Promise<{ channel: SocketChannel; peer: net.Socket }> {
    const server = net.createServer({ allowHalfOpen: true });
    await new Promise<void>((resolve) => server.listen(workDir.file("s"), resolve));
    const accepted = new Promise<net.Socket>((resolve) => server.once("connection", resolve));
    const peer = net.connect({ path: workDir.file("s"), allowHalfOpen: true });
    const socket = await accepted;
    server.close();
    const handle = (socket as unknown as WithHandle)._handle;
    // Otherwise the first way is not tried at all.
    expect(handle.useUserBuffer).toBeTypeOf("function");
    if (way.startsWith("without")) handle.useUserBuffer = undefined;
    const channel = new SocketChannel(socket, "peer");
    open.push(channel);
    onTestFinished(() => void peer.destroy());
    return { channel, peer };
  }

  test("odd sizes and pauses on both sides: the same bytes, to the end, and an answer after it", async () => {
    const { channel, peer } = await connected();
    const sent = Buffer.from(
      Uint32Array.from({ length: 700_001 }, (_, index) => index * 2_654_435_761).buffer,
    );
    const writing = (async () => {
      const sizes = [1, 7, 65_535, 65_537, 300_001, 3, 1_000_003];
      for (let at = 0, round = 0; at < sent.length; round++) {
        const size = sizes[round % sizes.length]!;
        await new Promise((resolve) => peer.write(sent.subarray(at, at + size), resolve));
        if (round % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 3));
        at += size;
      }
      peer.end();
    })();
    const parts: Buffer[] = [];
    const sizes = [1, 2, 65_536, 4097, 262_144, 262_145, 13, 1 << 20];
    for (let round = 0; ; round++) {
      const target = Buffer.alloc(sizes[round % sizes.length]!, 0xee);
      const count = await channel.read(target);
      if (count === 0) break;
      parts.push(target.subarray(0, count));
      if (round % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await writing;
    expect(Buffer.concat(parts).equals(sent)).toBe(true);
    expect(await channel.read(Buffer.alloc(1))).toBe(0);
    const answer = new Promise<string>((resolve) => {
      let text = "";
      peer.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      peer.on("end", () => resolve(text));
    });
    await channel.write(Buffer.from("answer"));
    await channel.end();
    expect(await answer).toBe("answer");
  });

  test("a reset while bytes are still unread: these come, then the error", async () => {
    const { channel, peer } = await connected();
    await new Promise((resolve) => peer.write("unread", resolve));
    const target = Buffer.alloc(3);
    expect(await channel.read(target)).toBe(3);
    await channel.close();
    expect(await channel.read(target)).toBe(3);
    await expect(channel.read(target)).rejects.toMatchObject({ code: "connection-closed" });
  });
});

describe("SocketListener and connectSocket", () => {
  test("TCP: a port of its own choice", async () => {
    const listener = await SocketListener.listen({ host: "127.0.0.1", port: 0 }, "tcp:127.0.0.1:0");
    open.push(listener);
    expect(listener.port).toBeGreaterThan(0);
    const channel = await connectSocket({ host: "127.0.0.1", port: listener.port! }, "tcp");
    const accepted = await listener.accept();
    open.push(channel, accepted);
    await channel.end();
    expect((await readAll(accepted)).length).toBe(0);
  });

  test("a place that is taken", async () => {
    const address = { path: workDir.file("s") };
    open.push(await SocketListener.listen(address, "unix:s"));
    await expect(SocketListener.listen(address, "unix:s")).rejects.toThrow(/in use already/);
  });

  test("nobody listens", async () => {
    await expect(connectSocket({ path: workDir.file("s") }, "unix:s")).rejects.toBeInstanceOf(MachineError);
  });

  test("waiting is cancelled, before and in the middle; nothing is left", async () => {
    const listener = await SocketListener.listen({ path: workDir.file("s") }, "unix:s");
    await expect(listener.accept(AbortSignal.abort())).rejects.toBeInstanceOf(CancelledError);
    await expect(listener.accept(AbortSignal.timeout(20))).rejects.toBeInstanceOf(CancelledError);
    await listener.close();
    await expect.poll(() => readdirSync(workDir.path)).toEqual([]);
  });

  test("nothing is left at the signal, whatever comes of it", async () => {
    const { signal } = new AbortController();
    const address = { path: workDir.file("s") };
    const listener = await SocketListener.listen(address, "unix:s");
    open.push(listener);
    const accepting = listener.accept(signal);
    open.push(await connectSocket(address, "unix:s", signal), await accepting);
    await expect(connectSocket({ path: workDir.file("no") }, "unix:no", signal)).rejects.toThrow();
    expect(getEventListeners(signal, "abort")).toEqual([]);
  });

  test("a signal that has fired: no connection is made", async () => {
    const address = { path: workDir.file("s") };
    const listener = await SocketListener.listen(address, "unix:s");
    open.push(listener);
    const connecting = connectSocket(address, "unix:s", AbortSignal.abort());
    await expect(connecting).rejects.toBeInstanceOf(CancelledError);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(listener.hasWaiting).toBe(false);
  });

  test("being cancelled is said in the usual words", async () => {
    const listener = await SocketListener.listen({ path: workDir.file("s") }, "unix:s");
    open.push(listener);
    await expect(listener.accept(AbortSignal.timeout(20))).rejects.toThrow("The operation was cancelled");
  });

  test("a listener that fails says so to who waits, and again is no uncaught error", async () => {
    const created: net.Server[] = [];
    const real = net.createServer.bind(net);
    vi.spyOn(net, "createServer").mockImplementation((...args: unknown[]) => {
      const server = (real as (...all: unknown[]) => net.Server)(...args);
      created.push(server);
      return server;
    });
    const listener = await SocketListener.listen({ path: workDir.file("s") }, "unix:s");
    vi.restoreAllMocks();
    open.push(listener);
    const accepting = listener.accept();
    for (let round = 0; round < 3; round++)
      created[0]!.emit("error", Object.assign(new Error("accept"), { code: "EMFILE" }));
    await expect(accepting).rejects.toMatchObject({ name: "MachineError", code: "io" });
  });

  test("connections that nobody accepted are closed", async () => {
    const listener = await SocketListener.listen({ path: workDir.file("s") }, "unix:s");
    const socket = net.connect(workDir.file("s"));
    const closed = new Promise((resolve) => socket.once("close", resolve));
    await new Promise((resolve) => socket.once("connect", resolve));
    await new Promise((resolve) => setTimeout(resolve, 20));
    await listener.close();
    socket.resume();
    await closed;
  });
});
