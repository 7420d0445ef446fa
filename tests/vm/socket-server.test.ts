import fs from "node:fs";
import net from "node:net";

import { afterEach, expect, test } from "vitest";

import { MachineError } from "../../src/errors/index.js";
import { SocketServer } from "../../src/vm/socket-server.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();
const servers: SocketServer[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});

async function listen(
  where: { readonly path: string } | { readonly port: number },
  serve: (socket: net.Socket) => Promise<void> = () => new Promise(() => undefined),
): Promise<SocketServer> {
  const chardev =
    "path" in where
      ? ({ kind: "unix", path: where.path, wait: false } as const)
      : ({ kind: "tcp", host: "127.0.0.1", port: where.port, wait: false } as const);
  const server = await SocketServer.listen(chardev, serve);
  servers.push(server);
  return server;
}

async function connect(path: string): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path }, () => resolve(socket));
    socket.once("error", reject);
  });
}

/** Everything that comes until the other side ends. */
async function readAll(socket: net.Socket): Promise<string> {
  let text = "";
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) text += String(chunk);
  return text;
}

test("serves one client after the other, in the order in which they came", async () => {
  const path = workDir.file("socket");
  const served: string[] = [];
  let busy = 0;
  await listen({ path }, async (socket) => {
    expect(++busy).toBe(1);
    const name = await readAll(socket);
    served.push(name);
    await new Promise<void>((resolve) => socket.end(`hello ${name}`, resolve));
    busy -= 1;
  });
  const clients = [];
  for (const name of ["one", "two", "three"]) {
    const socket = await connect(path);
    clients.push(readAll(socket));
    if (name === "one") setTimeout(() => socket.end(name), 20);
    else socket.end(name);
  }
  expect(await Promise.all(clients)).toEqual(["hello one", "hello two", "hello three"]);
  expect(served).toEqual(["one", "two", "three"]);
});

test("has a bound for those who wait", async () => {
  const path = workDir.file("socket");
  const server = await listen({ path });
  const sockets = await Promise.all(Array.from({ length: 18 }, () => connect(path)));
  await Promise.race(
    sockets.map((socket) => new Promise((resolve) => socket.resume().once("close", resolve))),
  );
  expect(sockets.filter(({ destroyed }) => destroyed)).toHaveLength(1);
  expect(server.client).toBeDefined();
});

test("replaces a socket that nobody listens at, and nothing else", async () => {
  const path = workDir.file("socket");
  // A process that was killed leaves its socket: a rename keeps this one from being removed by its server.
  const leftover = net.createServer();
  await new Promise<void>((resolve) => leftover.listen(`${path}.old`, resolve));
  fs.renameSync(`${path}.old`, path);
  await new Promise((resolve) => leftover.close(resolve));
  expect(fs.lstatSync(path).isSocket()).toBe(true);
  await listen({ path });
  await expect(listen({ path })).rejects.toThrow(/in use/);
  const file = workDir.file("file");
  fs.writeFileSync(file, "precious");
  await expect(listen({ path: file })).rejects.toThrow(MachineError);
  expect(fs.readFileSync(file, "utf8")).toBe("precious");
});

test("says which port the system chose, and leaves no socket file", async () => {
  const server = await listen({ port: 0 });
  expect(server.address).toMatch(/^tcp:127\.0\.0\.1:[1-9]\d*$/);
  const path = workDir.file("socket");
  const unix = await listen({ path });
  expect(unix.address).toBe(`unix:${path}`);
  const client = await connect(path);
  const gone = new Promise((resolve) => client.resume().once("close", resolve));
  await unix.close();
  servers.pop();
  await gone;
  expect(fs.existsSync(path)).toBe(false);
});

test("says that the folder of its path does not exist", async () => {
  const path = workDir.file("no/socket");
  await expect(listen({ path })).rejects.toThrow(`the folder of unix:${path} does not exist`);
});
