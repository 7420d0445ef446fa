import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import net from "node:net";
import process from "node:process";
import { describe, expect, onTestFinished, test } from "vitest";

import {
  type IncomingChannel,
  openIncoming,
  openOutgoing,
  parseMigrationUri,
} from "../../src/channels/index.js";
import { CancelledError, MachineError, UsageError } from "../../src/errors/index.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

describe("a socket file that is there already", () => {
  test("one that nobody listens at is removed", async () => {
    const socket = workDir.file("in.sock");
    // The process ends without removing it.
    const script = `require("net").createServer().listen(${JSON.stringify(socket)}, () => process.kill(process.pid, "SIGKILL"))`;
    spawnSync(process.execPath, ["-e", script]);
    expect(existsSync(socket)).toBe(true);
    let listening = false;
    const opening = openIncoming(parseMigrationUri(`unix:${socket}`), {
      signal: AbortSignal.timeout(100),
      onListening: () => (listening = true),
    });
    await expect(opening).rejects.toBeInstanceOf(CancelledError);
    expect(listening).toBe(true);
  });

  test("one that somebody listens at is left alone, and nobody calls there", async () => {
    const socket = workDir.file("in.sock");
    let calls = 0;
    const server = net.createServer(() => (calls += 1));
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    const opening = openIncoming(parseMigrationUri(`unix:${socket}`));
    await expect(opening).rejects.toThrow(/in use already/);
    await expect(opening).rejects.toMatchObject({ name: "MachineError", code: "io" });
    expect(existsSync(socket)).toBe(true);
    expect(calls).toBe(0);
    server.close();
  });

  test("the same by another path to it", async () => {
    const socket = workDir.file("in.sock");
    const server = net.createServer();
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    const opening = openIncoming(parseMigrationUri(`unix:${workDir.path}/./in.sock`));
    await expect(opening).rejects.toThrow(/in use already/);
    expect(existsSync(socket)).toBe(true);
    server.close();
  });

  test("a file that is no socket stays", async () => {
    const file = workDir.file("precious");
    writeFileSync(file, "precious");
    await expect(openIncoming(parseMigrationUri(`unix:${file}`))).rejects.toThrow(/in use already/);
    expect(readFileSync(file, "utf8")).toBe("precious");
  });
});

describe("what cannot be opened", () => {
  test("a FIFO instead of a file does not hang", async () => {
    const fifo = workDir.file("fifo");
    spawnSync("mkfifo", [fifo]);
    await expect(openIncoming(parseMigrationUri(`file:${fifo}`))).rejects.toBeInstanceOf(UsageError);
  });

  test("a folder by descriptor, and a closed one", async () => {
    await expect(openIncoming(parseMigrationUri("fd:999"))).rejects.toThrow(/no open descriptor/);
    await expect(openOutgoing(parseMigrationUri("fd:999"))).rejects.toBeInstanceOf(MachineError);
  });

  test("a signal that has fired: no file is made or cut off, no command is run, nobody listens", async () => {
    const aborted = AbortSignal.abort();
    writeFileSync(workDir.file("kept"), "kept");
    for (const uri of ["file:kept", "file:new", "exec:touch new", "unix:new", "tcp:127.0.0.1:1", "fd:999"]) {
      const parsed = parseMigrationUri(uri.replace(/kept|new/, (name) => workDir.file(name)));
      await expect(openOutgoing(parsed, { signal: aborted })).rejects.toBeInstanceOf(CancelledError);
      await expect(openIncoming(parsed, { signal: aborted })).rejects.toBeInstanceOf(CancelledError);
    }
    expect(readdirSync(workDir.path)).toEqual(["kept"]);
    expect(readFileSync(workDir.file("kept"), "utf8")).toBe("kept");
  });
});

/** Opens a way in, and calls there `connections` times as soon as it listens. */
async function openAndCall(
  uri: string,
  connections: number,
  say: string,
  beforeCalling: () => Promise<void> = () => Promise.resolve(),
): Promise<{ readonly uri: string; readonly incoming: IncomingChannel }> {
  let listeningUri = "";
  const incoming = await openIncoming(parseMigrationUri(uri), {
    onListening: (where) => {
      listeningUri = where;
      const to = parseMigrationUri(where);
      if (to.kind !== "unix" && to.kind !== "tcp") throw new Error(where);
      void beforeCalling().then(() => {
        const calls = Array.from({ length: connections }, () => net.connect(to));
        for (const call of calls) call.on("error", () => undefined);
        calls.at(-1)?.once("connect", () => calls[0]?.write(say));
        onTestFinished(() => calls.forEach((call) => call.destroy()));
      });
    },
  });
  onTestFinished(() => incoming.source.close());
  return { uri: listeningUri, incoming };
}

describe("a listening socket", () => {
  test("is one: who listens at the same place too is told, and the first goes on", async () => {
    const uri = `unix:${workDir.file("in")}`;
    let second: Promise<IncomingChannel> | undefined;
    const { incoming } = await openAndCall(uri, 1, "hello", async () => {
      second = openIncoming(parseMigrationUri(uri));
      await expect(second).rejects.toThrow(/in use already/);
    });
    expect(second).toBeDefined();
    const target = Buffer.alloc(10);
    expect(await incoming.source.read(target)).toBe(5);
  });

  test.each([
    ["tcp::0", /^tcp:localhost:[1-9]\d*$/],
    ["tcp:0.0.0.0:0", /^tcp:127\.0\.0\.1:[1-9]\d*$/],
    ["tcp:127.0.0.1:0", /^tcp:127\.0\.0\.1:[1-9]\d*$/],
  ])("%s says where it can be reached", async (uri, expected) => {
    const opened = await openAndCall(uri, 1, "hello");
    expect(opened.uri).toMatch(expected);
    const target = Buffer.alloc(10);
    expect(await opened.incoming.source.read(target)).toBe(5);
  });

  test("several connections are refused in words, not by breaking the first one off", async () => {
    const { incoming } = await openAndCall(`unix:${workDir.file("in")}`, 3, "hello");
    await expect(incoming.source.read(Buffer.alloc(10))).rejects.toMatchObject({
      name: "FormatError",
      code: "unsupported",
      message: expect.stringContaining("multifd") as string,
    });
  });

  test("after the first bytes it listens no more", async () => {
    const { incoming } = await openAndCall(`unix:${workDir.file("in")}`, 1, "hello");
    await incoming.source.read(Buffer.alloc(10));
    await expect.poll(() => existsSync(workDir.file("in"))).toBe(false);
  });

  test("closed before the first bytes, it listens no more", async () => {
    const { incoming } = await openAndCall(`unix:${workDir.file("in")}`, 1, "");
    await incoming.source.close();
    await expect.poll(() => existsSync(workDir.file("in"))).toBe(false);
  });

  test.each(["listening", "connecting"])("a path that is too long for one (%s)", async (what) => {
    const uri = parseMigrationUri(`unix:${workDir.file("x".repeat(108))}`);
    const opening = what === "listening" ? openIncoming(uri) : openOutgoing(uri);
    await expect(opening).rejects.toBeInstanceOf(UsageError);
    await expect(opening).rejects.toThrow(/too long for a Unix socket .*at most 107 bytes/);
  });

  test("a path through a file: an error of ours", async () => {
    writeFileSync(workDir.file("file"), "");
    const opening = openIncoming(parseMigrationUri(`unix:${workDir.file("file/in")}`));
    await expect(opening).rejects.toMatchObject({ name: "MachineError", code: "io" });
  });

  const isRoot = process.getuid?.() === 0;
  test.skipIf(!isRoot).each([
    ["private to another user, is theirs", 0o700, 65_534],
    ["open to others, stays root's", 0o755, 0],
  ])(
    `as root, one in a directory that is %s${isRoot ? "" : " (skipped: not root)"}`,
    async (_what, mode, owner) => {
      const folder = workDir.file("theirs");
      mkdirSync(folder);
      chownSync(folder, 65_534, 65_534);
      chmodSync(folder, mode);
      const socket = `${folder}/in`;
      let uid: number | undefined;
      const opening = openIncoming(parseMigrationUri(`unix:${socket}`), {
        signal: AbortSignal.timeout(50),
        onListening: () => (uid = statSync(socket).uid),
      });
      await expect(opening).rejects.toBeInstanceOf(CancelledError);
      expect(uid).toBe(owner);
    },
  );
});
