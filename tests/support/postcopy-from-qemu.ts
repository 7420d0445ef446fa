/**
 * A real QEMU as the source of postcopy, and a toy of a machine as its destination: it has the same memory, and a guest that
 * touches it at random.
 *
 * @module
 */

import { type ByteSource, type SocketChannel, SocketListener } from "../../src/channels/index.js";
import {
  loadHostFromStream,
  type LoadStreamResult,
  type PostcopyConnection,
  type PostcopyListening,
  type PostcopyStatus,
} from "../../src/engine/index.js";
import { type PagedBlock, PostcopyToyHost } from "./postcopy-host.js";
import type { QemuMachine } from "./qemu.js";
import type { Random } from "./random.js";

/** The RAM blocks of a QEMU with their page sizes, as its monitor lists them. */
export async function ramBlocksOf(machine: QemuMachine): Promise<PagedBlock[]> {
  const text = (await machine.qmp("human-monitor-command", { "command-line": "info ramblock" })) as string;
  const row = /^\s*(?<name>\S+)\s+(?<size>\d+) (?<unit>[KMG])iB\s+\S+\s+(?<used>0x[0-9a-f]+)/;
  const shift = { K: 10, M: 20, G: 30 } as const;
  return text.split("\n").flatMap((line) => {
    const groups = row.exec(line)?.groups;
    if (groups === undefined) return [];
    const { name = "", size, unit, used } = groups;
    const hostPageSize = Number(size) << shift[unit as keyof typeof shift];
    return [{ name, usedLength: Number(used), hostPageSize }];
  });
}

/** A machine that QEMU can migrate to, as far as its memory goes. */
export async function toyHostFor(machine: QemuMachine): Promise<PostcopyToyHost> {
  const type = (await machine.qmp("qom-get", { path: "/machine", property: "type" })) as string;
  return new PostcopyToyHost(type.replace(/-machine$/, ""), await ramBlocksOf(machine));
}

/** Waits for connections of one source. */
export class SourceConnections {
  readonly #listener: SocketListener;
  readonly #preempt: boolean;
  /** Those that were made, in order. */
  readonly channels: SocketChannel[] = [];

  private constructor(listener: SocketListener, preempt: boolean) {
    this.#listener = listener;
    this.#preempt = preempt;
  }

  /** @param preempt Whether the source makes a second connection each time. */
  static async listen(path: string, preempt: boolean): Promise<SourceConnections> {
    return new SourceConnections(await SocketListener.listen({ path }, `unix:${path}`), preempt);
  }

  /** The next connection. */
  async next(): Promise<PostcopyConnection> {
    const main = await this.#accept();
    return { main, returnPath: main, ...(this.#preempt ? { preempt: this.#second() } : {}) };
  }

  async close(): Promise<void> {
    await this.#listener.close();
    await Promise.all(this.channels.map((channel) => channel.close()));
  }

  async #second(): Promise<ByteSource> {
    return this.#accept();
  }

  async #accept(): Promise<SocketChannel> {
    const channel = await this.#listener.accept();
    this.channels.push(channel);
    return channel;
  }
}

/** A load that goes on. */
export interface PostcopyLoad {
  readonly ended: Promise<LoadStreamResult>;
  /** Settles when the guest may run. */
  readonly running: Promise<PostcopyListening>;
  /** The states so far, and what led to them. */
  readonly states: readonly { readonly status: PostcopyStatus; readonly error: Error | undefined }[];
  /** Resolves when the state was entered so often. */
  entered(status: PostcopyStatus, times?: number): Promise<void>;
}

/** Loads what the source sends; `guest` runs from RUN on. */
export async function beginPostcopyLoad(
  host: PostcopyToyHost,
  connections: SourceConnections,
  guest: () => Promise<void>,
): Promise<PostcopyLoad> {
  const states: { status: PostcopyStatus; error: Error | undefined }[] = [];
  let changed = (): void => undefined;
  let isRunning: (listening: PostcopyListening) => void = () => undefined;
  const running = new Promise<PostcopyListening>((resolve) => (isRunning = resolve));
  const { main, returnPath, preempt } = await connections.next();
  let guestEnded: Promise<void> = Promise.resolve();
  let listening: PostcopyListening | undefined;
  const loaded = loadHostFromStream(host, main, {
    returnPath,
    postcopy: {
      ...(preempt === undefined ? {} : { preempt }),
      onListening: (one) => (listening = one),
      onRun: () => {
        if (listening !== undefined) isRunning(listening);
        guestEnded = guest();
      },
      events: {
        onStatus: (status, error) => {
          states.push({ status, error });
          changed();
        },
      },
    },
  });
  const entered = async (status: PostcopyStatus, times = 1): Promise<void> => {
    while (states.filter((state) => state.status === status).length < times) {
      await new Promise<void>((resolve) => (changed = resolve));
    }
  };
  const ended = loaded.then(async (result) => {
    await guestEnded;
    return result;
  });
  ended.catch(() => undefined);
  return { ended, running, states, entered };
}

/** A guest that touches pages at random until all have come, or it has touched so many. */
export async function touchAtRandom(host: PostcopyToyHost, random: Random, touches: number): Promise<void> {
  const { memory } = host;
  for (let touch = 0; touch < touches && !memory.hasEnded; touch++) {
    const index = random.below(4) === 0 ? random.below(memory.blocks.length) : 0;
    const { usedLength, bytes } = memory.blocks[index]!;
    const address = random.below(usedLength);
    await memory.touch(index, address);
    // Its turn is over now and then, as any guest's.
    if (bytes[address] === undefined) throw new Error("outside of memory");
    if (touch % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
}
