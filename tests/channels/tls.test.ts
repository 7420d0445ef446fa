import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import path from "node:path";
import { describe, expect, test } from "vitest";

import {
  type ByteChannel,
  connectSocket,
  openIncoming,
  openOutgoing,
  parseMigrationUri,
  SocketListener,
  type TlsCredentials,
} from "../../src/channels/index.js";
import { CancelledError, UsageError } from "../../src/errors/index.js";
import { hasOpenssl, makePskFolder, SERVER_NAME, TestCa } from "../support/certificates.js";
import { reportMissing } from "../support/missing.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

const x509 = (folder: string, hostname?: string): TlsCredentials => ({
  kind: "x509",
  folder,
  ...(hostname === undefined ? {} : { hostname }),
});

/** What became of a handshake on each side: the channel, or the message of the error. */
interface Outcome {
  readonly server: ByteChannel | string;
  readonly client: ByteChannel | string;
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Connects two ends in this process; a side without credentials speaks no TLS. */
async function meet(
  server: TlsCredentials | undefined,
  client: TlsCredentials | undefined,
  address: "unix" | "tcp" = "tcp",
): Promise<Outcome> {
  const at = address === "unix" ? { path: workDir.file("s") } : { host: "127.0.0.1", port: 0 };
  const listener = await SocketListener.listen(at, "the server's address", server);
  const to = listener.port === undefined ? at : { host: "127.0.0.1", port: listener.port };
  const connected = connectSocket(to, "the client's address", undefined, client).catch(messageOf);
  const accepted = listener.accept().catch(messageOf);
  const outcome = { server: await accepted, client: await connected };
  await listener.close();
  return outcome;
}

async function close({ server, client }: Outcome): Promise<void> {
  for (const end of [server, client]) if (typeof end !== "string") await end.close();
}

function open(end: ByteChannel | string): ByteChannel {
  if (typeof end === "string") throw new Error(end);
  return end;
}

/** Reads to the end, and says how much and what it was. */
async function digestOf(source: ByteChannel): Promise<{ bytes: number; digest: string }> {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(100_000);
  let bytes = 0;
  for (let count; (count = await source.read(buffer)) > 0; bytes += count) {
    hash.update(buffer.subarray(0, count));
  }
  return { bytes, digest: hash.digest("hex") };
}

async function send(sink: ByteChannel, bytes: Uint8Array): Promise<string> {
  // From one buffer, as the engine does: what was handed over must not be read again later.
  const piece = new Uint8Array(300_001);
  for (let at = 0; at < bytes.length; at += piece.length) {
    const part = bytes.subarray(at, at + piece.length);
    piece.set(part);
    await sink.write(piece.subarray(0, part.length));
  }
  await sink.end();
  return createHash("sha256").update(bytes).digest("hex");
}

if (!hasOpenssl()) {
  reportMissing({ title: "TLS", reason: "there is no openssl to make certificates with" });
} else {
  describe("two ends with TLS", () => {
    const kinds: readonly [string, () => { server: TlsCredentials; client: TlsCredentials }][] = [
      [
        "x509",
        () => {
          const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
          return { server: x509(folder), client: x509(folder, SERVER_NAME) };
        },
      ],
      [
        "psk",
        () => {
          const file = makePskFolder(workDir.file("creds"));
          return {
            server: { kind: "psk", file },
            client: { kind: "psk", file: path.join(file, "keys.psk") },
          };
        },
      ],
    ];

    test.each(kinds)("%s: both directions at once, each ends by itself", async (_kind, make) => {
      const { server, client } = make();
      const ends = await meet(server, client, "unix");
      const [one, other] = [open(ends.server), open(ends.client)];
      const [down, up] = [randomBytes(5_000_000), randomBytes(3_000_000)];
      const [sentDown, sentUp, gotUp, gotDown] = await Promise.all([
        send(one, down),
        send(other, up),
        digestOf(one),
        digestOf(other),
      ]);
      expect(gotDown).toEqual({ bytes: down.length, digest: sentDown });
      expect(gotUp).toEqual({ bytes: up.length, digest: sentUp });
      await close(ends);
    });

    test.each(kinds)("%s: an answer to a side that has ended its own", async (_kind, make) => {
      const { server, client } = make();
      const ends = await meet(server, client);
      await open(ends.client).end();
      expect(await open(ends.server).read(new Uint8Array(9))).toBe(0);
      await open(ends.server).write(Buffer.from("done"));
      const buffer = new Uint8Array(9);
      expect(await open(ends.client).read(buffer)).toBe(4);
      expect(Buffer.from(buffer.subarray(0, 4)).toString()).toBe("done");
      await close(ends);
    });

    test("the names in a certificate: one of them, an address, or none without the check", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      for (const hostname of [undefined, "localhost", "127.0.0.1"]) {
        const ends = await meet(x509(folder), x509(folder, hostname));
        expect(typeof ends.client).toBe("object");
        await close(ends);
      }
      const wrong = await meet(x509(folder), x509(folder, "other.example"));
      expect(wrong.client).toMatch(
        /certificate of the TLS server .* not for the name other\.example .*server\.example/,
      );
      await close(wrong);
      const unchecked = await meet(x509(folder), {
        kind: "x509",
        folder,
        hostname: "other.example",
        verifyPeer: false,
      });
      expect(typeof unchecked.client).toBe("object");
      await close(unchecked);
    });
  });

  describe("two ends that do not fit, each with a sentence for its user", () => {
    test("the server's certificate is of another CA, and it does not check the client's", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      const other = new TestCa(workDir.file("other-ca")).issue(workDir.file("other"));
      const ends = await meet({ kind: "x509", folder: other, verifyPeer: false }, x509(folder));
      expect(ends.client).toMatch(
        /certificate of the TLS server at the client's address is not signed by the CA of/,
      );
      await close(ends);
    });

    test("each has another CA: neither gets a channel", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      const other = new TestCa(workDir.file("other-ca")).issue(workDir.file("other"));
      const ends = await meet(x509(folder), x509(other));
      expect(ends.server).toMatch(/is not signed by the CA of|showed no certificate/);
      // Whichever comes first.
      expect(ends.client).toMatch(/is not signed by the CA of|not take this side's certificate/);
    });

    test("the client's certificate is of another CA, and it does not check the server's", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      const other = new TestCa(workDir.file("other-ca")).issue(workDir.file("other"));
      const ends = await meet(x509(folder), { kind: "x509", folder: other, verifyPeer: false });
      expect(ends.server).toMatch(
        /certificate of the TLS client at the server's address is not signed by the CA of/,
      );
      await close(ends);
    });

    test("the client has no certificate; a server that does not check takes it", async () => {
      const ca = new TestCa(workDir.file("ca"));
      const server = ca.issue(workDir.file("server"), ["server"]);
      const client = ca.issue(workDir.file("client"), []);
      const ends = await meet(x509(server), x509(client));
      expect(ends.server).toMatch(/showed no certificate/);
      if (typeof ends.client !== "string") {
        await expect(ends.client.read(new Uint8Array(9))).rejects.toThrow(/closed/);
      }
      await close(ends);
      const taken = await meet({ kind: "x509", folder: server, verifyPeer: false }, x509(client));
      expect(typeof taken.server).toBe("object");
      await close(taken);
    });

    test("a certificate that ca-crl.pem takes back, and one that it does not", async () => {
      const ca = new TestCa(workDir.file("ca"));
      const folder = ca.issue(workDir.file("creds"));
      ca.revoke(folder, 2);
      expect((await meet(x509(folder), x509(folder))).server).toMatch(/is revoked by ca-crl\.pem/);
      ca.revoke(folder, 77);
      const taken = await meet(x509(folder), x509(folder));
      expect(typeof taken.server).toBe("object");
      await close(taken);
    });

    test("a certificate for the other role", async () => {
      const ca = new TestCa(workDir.file("ca"));
      const folder = ca.issue(workDir.file("creds"));
      const swapped = ca.issue(workDir.file("swapped"), ["server", "client"], { swapRoles: true });
      expect((await meet(x509(folder), x509(swapped))).server).toMatch(/not made for this side/);
      expect((await meet(x509(swapped), x509(folder))).client).toMatch(/not made for this side/);
    });

    test("different keys, and a user that the other side does not know", async () => {
      const one: TlsCredentials = { kind: "psk", file: makePskFolder(workDir.file("one")) };
      const other: TlsCredentials = { kind: "psk", file: makePskFolder(workDir.file("other")) };
      const stranger: TlsCredentials = {
        kind: "psk",
        file: makePskFolder(workDir.file("stranger"), "ann"),
        username: "ann",
      };
      for (const client of [other, stranger]) {
        const ends = await meet(one, client);
        expect(ends.server).toMatch(/different keys, or another username/);
        expect(ends.client).toMatch(/different keys|closed the connection during|refused the TLS handshake/);
      }
    });

    test("certificates on one side, a key on the other", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      const psk: TlsCredentials = { kind: "psk", file: makePskFolder(workDir.file("psk")) };
      for (const [server, client] of [
        [psk, x509(folder)],
        [x509(folder), psk],
      ] as const) {
        const ends = await meet(server, client);
        expect(ends.server).toMatch(/share no way to do TLS/);
        expect(ends.client).toMatch(/refused the TLS handshake|closed the connection during/);
      }
    });

    test("a plain client at a server with TLS, and a silent one until it is cancelled", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      const listener = await SocketListener.listen({ path: workDir.file("s") }, "server", x509(folder));
      const plain = await connectSocket({ path: workDir.file("s") }, "plain");
      await plain.write(Buffer.from("QEVM\0\0\0\u0003".repeat(100)));
      await expect(listener.accept()).rejects.toThrow(
        /The other side of server does not speak TLS; set its tls-creds/,
      );
      const silent = await connectSocket({ path: workDir.file("s") }, "silent");
      const cancel = new AbortController();
      const accepted = listener.accept(cancel.signal);
      setImmediate(() => cancel.abort());
      await expect(accepted).rejects.toBeInstanceOf(CancelledError);
      await expect(silent.read(new Uint8Array(9))).resolves.toBe(0);
      await silent.close();
      await plain.close();
      await listener.close();
    });

    test("a client with TLS at a plain server: one that talks, one that hangs up", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      for (const [reply, expected] of [
        ["hello, I am no TLS server", /does not speak TLS/],
        [undefined, /closed the connection during the TLS handshake; its own error says why/],
      ] as const) {
        const server = net.createServer((socket) => {
          socket.on("error", () => undefined);
          if (reply === undefined) socket.destroy();
          else socket.write(reply);
        });
        const at = workDir.file(reply === undefined ? "a" : "b");
        server.listen(at);
        await once(server, "listening");
        const connecting = connectSocket({ path: at }, "plain", undefined, x509(folder, SERVER_NAME));
        await expect(connecting).rejects.toThrow(expected);
        server.close();
      }
    });

    test("a connection that breaks without TLS's own end is an end of the bytes, for whoever counts them", async () => {
      const folder = new TestCa(workDir.file("ca")).issue(workDir.file("creds"));
      const ends = await meet(x509(folder), x509(folder), "tcp").catch(() => undefined);
      await open(ends!.client).write(Buffer.from("begin"));
      await open(ends!.client).close();
      const buffer = new Uint8Array(9);
      expect(await open(ends!.server).read(buffer)).toBe(5);
      expect(await open(ends!.server).read(buffer).catch(messageOf)).toBe(0);
      await close(ends!);
    });
  });

  describe("what takes TLS", () => {
    test("no files, commands and pipes", async () => {
      const tls = x509(new TestCa(workDir.file("ca")).issue(workDir.file("creds")));
      for (const uri of ["file:/tmp/x", "exec:cat", "-"].map(parseMigrationUri)) {
        await expect(openIncoming(uri, { tls })).rejects.toThrow(/There is no TLS with/);
        await expect(openOutgoing(uri, { tls })).rejects.toBeInstanceOf(UsageError);
      }
    });

    test("an address without a host needs the server's name", async () => {
      const tls = x509(new TestCa(workDir.file("ca")).issue(workDir.file("creds")));
      const uri = parseMigrationUri(`unix:${workDir.file("s")}`);
      await expect(openOutgoing(uri, { tls })).rejects.toThrow(/which name .* --tls-hostname/);
    });
  });
}
