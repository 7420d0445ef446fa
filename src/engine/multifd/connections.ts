import type { ByteChannel, ByteSource } from "../../channels/index.js";
import { assert, FormatError } from "../../errors/index.js";
import { decodeMultifdHello, MULTIFD_HELLO_BYTES, MULTIFD_MAGIC } from "../../wire/index.js";

/** A connection that carries pages, behind what it begins with. */
export interface MultifdChannel {
  readonly id: number;
  readonly source: ByteSource;
}

/** The connections of a multifd migration, told apart. */
export interface MultifdConnections {
  /** The main channel, from its begin. */
  readonly main: ByteSource;
  readonly returnPath: ByteChannel;
  /** By their numbers. */
  readonly channels: readonly MultifdChannel[];
  /** The machine's, as the source says it: 16 bytes. */
  readonly uuid: Uint8Array;
}

/** Each connection begins with one of two magic numbers. */
const MAGIC_BYTES = 4;

/**
 * Tells the connections of a source apart by what they begin with: they may have been made in any order.
 *
 * @throws FormatError when they are not one main channel and one of each number, all of one machine; what reading throws.
 */
export async function sortConnections(connections: readonly ByteChannel[]): Promise<MultifdConnections> {
  const begun = await Promise.all(connections.map(readBegin));
  const mains = begun.filter(({ hello }) => hello === undefined);
  const [main] = mains;
  if (main === undefined || mains.length > 1) {
    throw new FormatError("malformed", "The connections are not those of one multifd migration", {
      expected: "one main channel",
      actual: mains.length,
      hint: "turn the multifd capability on at the source, and postcopy-preempt off",
    });
  }
  const count = connections.length - 1;
  const byId = new Map<number, MultifdChannel>();
  let uuid = new Uint8Array(16);
  for (const { channel, hello } of begun) {
    if (hello === undefined) continue;
    const { id } = hello;
    if (id >= count || byId.has(id)) {
      throw new FormatError("inconsistent", "A multifd channel has a number that it cannot have", {
        expected: `each of 0 to ${count - 1} once`,
        actual: id,
        hint: "multifd-channels at the source and --channels must be the same number",
      });
    }
    if (byId.size > 0 && Buffer.compare(uuid, hello.uuid) !== 0) {
      throw new FormatError("inconsistent", "The multifd channels are of different machines", {
        expected: `uuid ${Buffer.from(uuid).toString("hex")}`,
        actual: Buffer.from(hello.uuid).toString("hex"),
      });
    }
    uuid = new Uint8Array(hello.uuid);
    byId.set(id, { id, source: channel });
  }
  const channels = Array.from({ length: count }, (_, id) => {
    const channel = byId.get(id);
    assert(channel !== undefined, "as many numbers as channels, each once");
    return channel;
  });
  return { main: new BegunSource(main.magic, main.channel), returnPath: main.channel, channels, uuid };
}

interface Begun {
  readonly channel: ByteChannel;
  readonly magic: Uint8Array;
  /** Absent for the main channel: what it begins with belongs to its stream. */
  readonly hello?: { readonly uuid: Uint8Array; readonly id: number };
}

async function readBegin(channel: ByteChannel): Promise<Begun> {
  const bytes = new Uint8Array(MULTIFD_HELLO_BYTES);
  const magic = bytes.subarray(0, MAGIC_BYTES);
  await readWhole(channel, magic);
  if (new DataView(bytes.buffer).getUint32(0) !== MULTIFD_MAGIC) return { channel, magic };
  await readWhole(channel, bytes.subarray(MAGIC_BYTES));
  return { channel, magic, hello: decodeMultifdHello(bytes) };
}

async function readWhole(channel: ByteSource, target: Uint8Array): Promise<void> {
  for (let at = 0; at < target.length;) {
    const count = await channel.read(target.subarray(at));
    if (count === 0) throw new FormatError("truncated", "A connection ended before it said what it is");
    at += count;
  }
}

/** A source of which the first bytes have been read already. */
class BegunSource implements ByteSource {
  #begin: Uint8Array;
  readonly #rest: ByteSource;

  constructor(begin: Uint8Array, rest: ByteSource) {
    this.#begin = begin;
    this.#rest = rest;
  }

  read(target: Uint8Array): Promise<number> {
    if (this.#begin.length === 0) return this.#rest.read(target);
    const count = Math.min(this.#begin.length, target.length);
    target.set(this.#begin.subarray(0, count));
    this.#begin = this.#begin.subarray(count);
    return Promise.resolve(count);
  }

  close(): Promise<void> {
    return this.#rest.close();
  }
}
