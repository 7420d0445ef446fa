/** A monitor made of a socket and a script: it sends what a test tells it to, right or wrong. */
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { QmpClient, type QmpConnectOptions } from "../../src/qmp/index.js";

export const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Test"}, "capabilities": ["oob"]}}\r\n';

export interface Request {
  readonly execute?: string;
  readonly "exec-oob"?: string;
  readonly arguments?: unknown;
  readonly id: number;
}

/** Answers one request; the default is `{"return": {}}`. */
export type Answer = (request: Request, socket: Socket) => void;

export class FakeMonitor {
  readonly path: string;
  readonly requests: Request[] = [];
  readonly sockets: Socket[] = [];
  readonly #directory: string;
  readonly #server: Server;

  private constructor(directory: string, onConnection: (monitor: FakeMonitor, socket: Socket) => void) {
    this.#directory = directory;
    this.path = join(directory, "qmp.sock");
    this.#server = createServer((socket) => {
      this.sockets.push(socket);
      socket.on("error", () => undefined);
      onConnection(this, socket);
    });
  }

  /** A peer that does only what `onConnection` does. */
  static async raw(onConnection: (socket: Socket) => void): Promise<FakeMonitor> {
    return FakeMonitor.#listen((_monitor, socket) => onConnection(socket));
  }

  /** A monitor that greets, negotiates, and leaves every other request to `answer`. */
  static async start(answer: Answer = ok): Promise<FakeMonitor> {
    return FakeMonitor.#listen((monitor, socket) => {
      socket.write(GREETING);
      let text = "";
      socket.setEncoding("utf8");
      socket.on("data", (chunk: string) => {
        const lines = (text + chunk).split("\n");
        text = lines.pop() ?? "";
        for (const line of lines) {
          const request = JSON.parse(line) as Request;
          monitor.requests.push(request);
          if (request.execute === "qmp_capabilities") ok(request, socket);
          else answer(request, socket);
        }
      });
    });
  }

  static async #listen(onConnection: (monitor: FakeMonitor, socket: Socket) => void): Promise<FakeMonitor> {
    const directory = await mkdtemp(join(tmpdir(), "ramport-qmp-"));
    const monitor = new FakeMonitor(directory, onConnection);
    await new Promise<void>((resolve) => monitor.#server.listen(monitor.path, resolve));
    return monitor;
  }

  connect(options?: QmpConnectOptions): Promise<QmpClient> {
    return QmpClient.connect(this.path, options);
  }

  /** Sends to the newest client. */
  send(value: unknown): void {
    this.sockets.at(-1)!.write(`${JSON.stringify(value)}\r\n`);
  }

  sendEvent(name: string, data?: Readonly<Record<string, unknown>>): void {
    this.send({ event: name, ...(data && { data }), timestamp: { seconds: 1700000000, microseconds: 42 } });
  }

  async stop(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    await rm(this.#directory, { recursive: true, force: true });
  }
}

export function ok(request: Request, socket: Socket): void {
  reply(request, socket, {});
}

export function reply(request: Request, socket: Socket, value: unknown): void {
  socket.write(`${JSON.stringify({ return: value, id: request.id })}\r\n`);
}
