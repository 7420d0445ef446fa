/**
 * Compressed multifd packets, with a real QEMU at both ends: what the source compressed is unpacked here, and the
 * destination gets what was compressed here.
 */

import { once } from "node:events";
import net from "node:net";
import { expect, test } from "vitest";

import {
  createPacketCompressor,
  createPacketDecompressor,
} from "../../src/engine/multifd/compression/create-packet-compression.js";
import type { PacketCompression } from "../../src/engine/multifd/compression/packet-compression.js";
import { asError } from "../../src/errors/as-error.js";
import { describeWithQemu } from "../support/describe-with-qemu.js";
import {
  expectGoesOn,
  guestMachine,
  guestState,
  migrationEnd,
  setCapabilities,
} from "../support/migrating-guest.js";
import { QEMU_VERSIONS, startQemu } from "../support/qemu.js";
import { useWorkDir } from "../support/work-dir.js";

const PAGE = 4096;
const MULTIFD_MAGIC = 0x11223344;
const HELLO_BYTES = 64;
const HEADER_BYTES = 320;
/** Always room for 128 pages, also in a sync packet of QEMU 9 and newer, whose pages_alloc is 0. */
const OFFSETS_BYTES = 128 * 8;

const workDir = useWorkDir();

describeWithQemu(QEMU_VERSIONS, "multifd packets from and to QEMU", () => {
  const cells = QEMU_VERSIONS.flatMap((version) =>
    (["zlib", "zstd"] as const).flatMap((method) =>
      [1, method === "zlib" ? 9 : 20].map((level) => ({ version, method, level })),
    ),
  );
  test.each(cells)("QEMU $version, $method level $level, a running guest", async (cell) => {
    const { version, method, level } = cell;
    const source = await startQemu(guestMachine(workDir.path, { version }));
    const destination = await startQemu(guestMachine(workDir.path, { version, incoming: "defer" }));
    for (const machine of [source, destination]) {
      await setCapabilities(machine, "multifd");
      await machine.qmp("migrate-set-parameters", {
        "multifd-channels": 2,
        "multifd-compression": method,
        [`multifd-${method}-level`]: level,
        "max-bandwidth": 0,
        // The guest writes faster than the highest levels compress.
        "downtime-limit": 60_000,
      });
    }
    await source.waitForPass(2);
    const [into, out] = [workDir.file("in"), workDir.file("out")];
    await destination.qmp("migrate-incoming", { uri: `unix:${out}` });
    const relay = await startRelay(into, out, method, level);
    await source.qmp("migrate", { uri: `unix:${into}` });
    const [from, to] = await Promise.all([migrationEnd(source), migrationEnd(destination), relay.done]);
    expect([from, to]).toEqual(["completed", "completed"]);
    const state = guestState(source);
    await source.kill();
    expect(relay.packets.filter((count) => count > 0)).toHaveLength(2);
    await expectGoesOn(destination, state);
  });
});

interface Relay {
  /** Packets with pages that passed, for each connection. */
  readonly packets: readonly number[];
  /** Settles when all connections have ended, or one of them could not be passed on. */
  readonly done: Promise<unknown>;
}

/** Passes on what comes, each packet's pages unpacked and compressed again. */
async function startRelay(
  from: string,
  to: string,
  method: PacketCompression,
  level: number,
): Promise<Relay> {
  const packets: number[] = [];
  const server = net.createServer();
  const done = new Promise((resolve, reject) => {
    const passed: Promise<void>[] = [];
    server.on("connection", (incoming) => {
      const channel = packets.push(0) - 1;
      // Connected at once: QEMU 7.2 tells the main channel by its being the first.
      const outgoing = net.connect(to);
      const pass = passOn(incoming, outgoing, method, level, () => (packets[channel]! += 1));
      pass.catch((error: unknown) => {
        incoming.destroy();
        outgoing.destroy();
        reject(asError(error));
      });
      // The main channel and two more.
      if (passed.push(pass) === 3) {
        server.close();
        Promise.all(passed).then(resolve, reject);
      }
    });
  });
  await once(server.listen(from), "listening");
  return { packets, done };
}

async function passOn(
  incoming: net.Socket,
  outgoing: net.Socket,
  method: PacketCompression,
  level: number,
  onPacket: () => void,
): Promise<void> {
  const reader = new Reader(incoming);
  const decompressor = createPacketDecompressor(method);
  const compressor = createPacketCompressor(method, level);
  try {
    const magic = await reader.peek(4);
    if (magic?.readUInt32BE() !== MULTIFD_MAGIC) {
      for (let piece; (piece = await reader.some());) outgoing.write(piece);
      return;
    }
    outgoing.write(await reader.exactly(HELLO_BYTES));
    while ((await reader.peek(1)) !== undefined) {
      const header = await reader.exactly(HEADER_BYTES);
      const offsets = await reader.exactly(OFFSETS_BYTES);
      const data = new Uint8Array(header.readUInt32BE(16) * PAGE);
      // QEMU 7.2's packets without pages still name the size of the packet before; nothing follows.
      if (header.readUInt32BE(0) !== MULTIFD_MAGIC) throw new Error("no packet where one must be");
      const packed = await reader.exactly(data.length === 0 ? 0 : header.readUInt32BE(20));
      await decompressor.decompress(packed, data);
      const again = Buffer.from(await compressor.compress(data));
      header.writeUInt32BE(again.length, 20);
      outgoing.write(Buffer.concat([header, offsets, again]));
      if (data.length > 0) onPacket();
    }
  } finally {
    outgoing.end();
    compressor.close();
    decompressor.close();
  }
}

/** Reads a socket in the lengths that are asked for. */
class Reader {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(socket: net.Socket) {
    this.#chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  /** The next bytes, which stay; undefined at the end. */
  async peek(length: number): Promise<Buffer | undefined> {
    const parts = [this.#rest];
    let have = this.#rest.length;
    while (have < length) {
      const next = await this.#chunks.next();
      if (next.done === true) break;
      parts.push(next.value);
      have += next.value.length;
    }
    this.#rest = Buffer.concat(parts);
    return have >= length ? this.#rest.subarray(0, length) : undefined;
  }

  async exactly(length: number): Promise<Buffer> {
    const bytes = Buffer.from(
      (await this.peek(length)) ?? expect.unreachable("the channel ended inside a packet"),
    );
    this.#rest = this.#rest.subarray(length);
    return bytes;
  }

  async some(): Promise<Buffer | undefined> {
    const peeked = await this.peek(1);
    const rest = this.#rest;
    this.#rest = Buffer.alloc(0);
    return peeked === undefined ? undefined : rest;
  }
}
