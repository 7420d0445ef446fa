import { spawn } from "node:child_process";
import { PassThrough, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import zlib from "node:zlib";

import { FormatError, MachineError, printable } from "../errors/index.js";
import type { ByteSource, RandomAccessSource } from "./byte-stream.js";
import { errnoCode } from "./system-error.js";

/** What a compressed stream may be packed with. */
export type Compression = "gzip" | "bzip2" | "xz" | "lzop" | "zstd";

const READ_BYTES = 256 << 10;

/**
 * Reads what is compressed in a file from `offset` to its end. gzip, and zstd where this Node has it, are unpacked in this
 * process; the others by the system's program of that name.
 *
 * Reading throws FormatError `malformed` for damaged data, and MachineError `not-capable` when the program is missing.
 */
export function openCompressed(
  source: RandomAccessSource,
  offset: number,
  compression: Compression,
): ByteSource {
  const packed = Readable.from(pieces(source, offset), { objectMode: false });
  if (compression === "gzip") return new UnpackedSource(packed, zlib.createGunzip(), compression);
  if (compression === "zstd" && "createZstdDecompress" in zlib) {
    const create = zlib.createZstdDecompress as () => zlib.Gunzip;
    return new UnpackedSource(packed, create(), compression);
  }
  return new UnpackedSource(packed, programOf(compression), compression);
}

function* pieces(source: RandomAccessSource, offset: number): Generator<Uint8Array> {
  for (let position = offset; ;) {
    // A new buffer each time: the stream behind keeps what it is given.
    const bytes = new Uint8Array(READ_BYTES);
    const count = source.readAt(bytes, position);
    if (count === 0) return;
    position += count;
    yield bytes.subarray(0, count);
  }
}

/** A program that unpacks standard input to standard output. */
function programOf(name: Compression): {
  input: NodeJS.WritableStream;
  output: Readable;
  done: Promise<void>;
} {
  const child = spawn(name, ["-dc"], { stdio: ["pipe", "pipe", "pipe"] });
  let complaint = "";
  child.stderr
    .setEncoding("utf8")
    .on("data", (text: string) => (complaint = (complaint + text).slice(0, 500)));
  const done = new Promise<void>((resolve, reject) => {
    child.once("error", (cause) => {
      const missing = errnoCode(cause) === "ENOENT";
      const message = missing
        ? `The program ${name} is needed to unpack this file`
        : `Starting ${name} failed`;
      reject(new MachineError("not-capable", message, missing ? { hint: `install ${name}` } : {}, cause));
    });
    child.once("close", (code) => {
      if (code === 0) resolve();
      else
        reject(new FormatError("malformed", `Unpacking with ${name} failed: ${printable(complaint.trim())}`));
    });
  });
  return { input: child.stdin, output: child.stdout, done };
}

class UnpackedSource implements ByteSource {
  readonly #packed: Readable;
  readonly #output: Readable;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #done: Promise<void>;
  #rest: Uint8Array = new Uint8Array();

  constructor(
    packed: Readable,
    unpacker: zlib.Gunzip | { input: NodeJS.WritableStream; output: Readable; done: Promise<void> },
    name: string,
  ) {
    this.#packed = packed;
    if ("done" in unpacker) {
      this.#output = unpacker.output;
      this.#done = unpacker.done;
      // The program says itself what is wrong; that it then reads no further is no news.
      pipeline(packed, unpacker.input).catch(() => undefined);
    } else {
      const output = new PassThrough({ highWaterMark: READ_BYTES });
      this.#output = output;
      this.#done = pipeline(packed, unpacker, output).catch((cause: unknown) => {
        throw new FormatError("malformed", `The ${name} data is damaged`, {}, cause);
      });
    }
    this.#done.catch(() => undefined);
    this.#chunks = this.#output[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
  }

  async read(target: Uint8Array): Promise<number> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next().catch(async (error: unknown) => {
        await this.#done;
        throw error;
      });
      if (next.done === true) {
        // Only now is it known whether the end is the end.
        await this.#done;
        return 0;
      }
      this.#rest = next.value;
    }
    const count = Math.min(this.#rest.length, target.length);
    target.set(this.#rest.subarray(0, count));
    this.#rest = this.#rest.subarray(count);
    return count;
  }

  close(): Promise<void> {
    this.#packed.destroy();
    this.#output.destroy();
    return Promise.resolve();
  }
}
