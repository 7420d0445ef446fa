import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "vitest";

import { type ByteReceiver, type ByteSource, deliver } from "../../src/channels/index.js";
import { sourceOf } from "../support/byte-channels.js";
import { Random } from "../support/random.js";
import { socketPair } from "../support/socket-pair.js";
import { useWorkDir } from "../support/work-dir.js";

const workDir = useWorkDir();

/** Takes bytes in rooms of all sizes, and now and then has none. */
class Picky implements ByteReceiver {
  readonly pieces: Buffer[] = [];
  readonly #random: Random;
  readonly #largest: number;
  #room: Uint8Array | undefined;
  #closed = false;

  constructor(seed: number, largest: number) {
    this.#random = new Random(seed);
    this.#largest = largest;
  }

  get isFull(): boolean {
    return this.#closed;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.pieces);
  }

  reopen(): void {
    this.#closed = false;
  }

  room(): Uint8Array | undefined {
    if (this.#closed) return undefined;
    this.#room ??= new Uint8Array(1 + this.#random.below(this.#largest));
    return this.#room;
  }

  received(count: number): void {
    expect(this.#closed).toBe(false);
    expect(count).toBeGreaterThan(0);
    expect(count).toBeLessThanOrEqual(this.#room!.length);
    this.pieces.push(Buffer.from(this.#room!.subarray(0, count)));
    this.#room = undefined;
    this.#closed = this.#random.below(8) === 0;
  }
}

async function deliverAll(source: ByteSource, receiver: Picky): Promise<Buffer> {
  const delivery = deliver(source, receiver);
  let over = false;
  const ended = delivery.ended.finally(() => (over = true));
  while (!over) {
    await setImmediate();
    if (!receiver.isFull) continue;
    const before = receiver.pieces.length;
    await setImmediate();
    expect(receiver.pieces).toHaveLength(before);
    receiver.reopen();
    delivery.resume();
  }
  await ended;
  return receiver.bytes;
}

const sent = Buffer.from(Uint32Array.from({ length: 1 << 19 }, (_, index) => index * 2654435761).buffer);

describe.each([
  ["small rooms", 3000],
  ["rooms larger than the socket holds", 1 << 20],
])("%s", (_, largest) => {
  test.each([1, 2, 3])("a socket's bytes come whole and in order, seed %d", async (seed) => {
    const { near, far } = await socketPair(workDir.file("s"));
    const writing = near.write(sent).then(() => near.end());
    // Some was read before, and some may be in the channel's own buffer.
    const first = Buffer.alloc(seed * 10);
    for (let at = 0; at < first.length;) at += await far.read(first.subarray(at));
    const rest = await deliverAll(far, new Picky(seed, largest));
    await writing;
    expect(Buffer.concat([first, rest]).equals(sent)).toBe(true);
  });

  test("another source's, too", async () => {
    expect((await deliverAll(sourceOf(sent, 5000), new Picky(4, largest))).equals(sent)).toBe(true);
  });
});

test("a connection that breaks is no end", async () => {
  const { far } = await socketPair(workDir.file("s"));
  const delivery = deliver(far, new Picky(1, 100));
  await far.close();
  await expect(delivery.ended).rejects.toMatchObject({ code: "connection-closed" });
});
