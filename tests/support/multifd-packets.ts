/**
 * What a multifd source sends over its channels, for tests.
 *
 * @module
 */

import type { ByteSource } from "../../src/channels/index.js";
import { encodeMultifdPacket, type MultifdPacket, multifdPacketHeadBytes } from "../../src/wire/index.js";

/** A packet's pages: where they go, and what they hold. */
export interface PacketPages {
  readonly block: string;
  readonly normal?: readonly { readonly place: number; readonly bytes: Uint8Array }[];
  readonly zero?: readonly number[];
}

/** A packet as it is on the wire. */
export function packetBytes(
  pageSize: number,
  { block, normal = [], zero = [] }: PacketPages,
  fields: Partial<MultifdPacket> & { readonly payload?: Uint8Array } = {},
): Buffer {
  const { payload = Buffer.concat(normal.map(({ bytes }) => bytes)), ...changed } = fields;
  const head = new Uint8Array(multifdPacketHeadBytes(pageSize));
  const places = Float64Array.from([...normal.map(({ place }) => place), ...zero]);
  const packet: MultifdPacket = {
    sync: false,
    compression: "none",
    normalPages: normal.length,
    zeroPages: zero.length,
    payloadBytes: payload.length,
    packetNumber: 0,
    block,
    ...changed,
  };
  encodeMultifdPacket(head, packet, places, pageSize);
  return Buffer.concat([head, payload]);
}

/** The packet that ends a round, without pages. */
export function syncPacket(pageSize: number): Buffer {
  return packetBytes(pageSize, { block: "" }, { sync: true });
}

/** A channel into which a test puts bytes when it likes. */
export class PushedSource implements ByteSource {
  #bytes = Buffer.alloc(0);
  #ended = false;
  #wake = (): void => undefined;

  push(...pieces: readonly Uint8Array[]): void {
    this.#bytes = Buffer.concat([this.#bytes, ...pieces]);
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async read(target: Uint8Array): Promise<number> {
    while (this.#bytes.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const count = Math.min(target.length, this.#bytes.length);
    target.set(this.#bytes.subarray(0, count));
    this.#bytes = this.#bytes.subarray(count);
    return count;
  }

  close(): Promise<void> {
    this.end();
    return Promise.resolve();
  }
}
