import fs from "node:fs";
import { resolve } from "node:path";

import { FormatError, MachineError, UsageError } from "../errors/index.js";
import type { ByteChannel, RandomAccessSource } from "./byte-stream.js";
import { systemError } from "./system-error.js";

/** A file opened for reading at any place. */
export class ReadableFile implements RandomAccessSource {
  readonly path: string;
  /** The same, for a process with another working directory. */
  readonly absolutePath: string;
  readonly fd: number;
  readonly sizeBytes: number;
  /** Bytes that the file takes on its device: less than its size when it is sparse. */
  readonly allocatedBytes: number;
  #open = true;

  private constructor(path: string, fd: number, stats: fs.Stats) {
    this.path = path;
    this.absolutePath = resolve(path);
    this.fd = fd;
    this.sizeBytes = stats.size;
    this.allocatedBytes = stats.blocks * 512;
  }

  /**
   * @throws MachineError `io` when the file cannot be opened; FormatError `unsupported` when it is no regular file.
   */
  static open(path: string): ReadableFile {
    let fd: number;
    try {
      // Not blocking: opening a FIFO by mistake must not hang.
      fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    } catch (cause) {
      throw systemError("Opening", path, cause);
    }
    const stats = fs.fstatSync(fd);
    if (stats.isFile()) return new ReadableFile(path, fd, stats);
    fs.closeSync(fd);
    const what = stats.isDirectory() ? "a directory" : "no regular file";
    throw new FormatError("unsupported", `${path} is ${what}`, { path, hint: "name a snapshot file" });
  }

  readAt(target: Uint8Array, position: number): number {
    let done = 0;
    try {
      while (done < target.length) {
        const count = fs.readSync(this.fd, target, done, target.length - done, position + done);
        if (count === 0) break;
        done += count;
      }
    } catch (cause) {
      throw systemError("Reading", this.path, cause);
    }
    return done;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    fs.closeSync(this.fd);
  }
}

/** A file read or written from front to back, as a channel; also pipes and terminals by descriptor. */
export class SequentialFile implements ByteChannel {
  readonly #path: string;
  readonly #fd: number;
  /** Next place in the file; undefined for what has no places (pipes). */
  #position: number | undefined;
  #open = true;
  /** The call that runs in another thread: until it is back, its descriptor must not become another file's. */
  #running: Promise<unknown> = Promise.resolve();

  constructor(path: string, fd: number, position: number | undefined) {
    this.#path = path;
    this.#fd = fd;
    this.#position = position;
  }

  async read(target: Uint8Array): Promise<number> {
    return this.#transfer("Reading", (done) =>
      fs.read(this.#fd, target, 0, target.length, this.#position ?? null, done),
    );
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let from = 0; from < bytes.length;) {
      from += await this.#transfer("Writing", (done) =>
        fs.write(this.#fd, bytes, from, bytes.length - from, this.#position ?? null, done),
      );
    }
  }

  end(): Promise<void> {
    return Promise.resolve();
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#running;
    // Standard input and output belong to the process.
    if (this.#fd > 2) fs.closeSync(this.#fd);
  }

  /** Runs one call that reads or writes; closed before or during it, it fails. */
  async #transfer(action: string, call: (done: TransferCallback) => void): Promise<number> {
    this.#assertOpen();
    const running = new Promise<number>((resolve, reject) => {
      call((error, count) => {
        if (error === null) resolve(count);
        else reject(systemError(action, this.#path, error));
      });
    });
    this.#running = running.catch(() => undefined);
    const count = await running;
    this.#assertOpen();
    if (this.#position !== undefined) this.#position += count;
    return count;
  }

  #assertOpen(): void {
    if (!this.#open) {
      throw new MachineError("connection-closed", `${this.#path} was closed`, { path: this.#path });
    }
  }
}

type TransferCallback = (error: NodeJS.ErrnoException | null, count: number) => void;

/**
 * Opens a file for a stream read from `offset`.
 *
 * @throws MachineError `io`; UsageError for what is no file.
 */
export function openFileForReading(path: string, offset: number): SequentialFile {
  let fd: number;
  try {
    // Not blocking: opening a FIFO by mistake must not hang.
    fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  } catch (cause) {
    throw systemError("Opening", path, cause);
  }
  const stats = fs.fstatSync(fd);
  if (stats.isFile() || stats.isBlockDevice()) return new SequentialFile(path, fd, offset);
  fs.closeSync(fd);
  if (stats.isFIFO()) {
    throw new UsageError(`${path} is a pipe, not a file`, { path, hint: `read it with - and < ${path}` });
  }
  const what = stats.isDirectory() ? "a directory" : "no regular file";
  throw new UsageError(`${path} is ${what}, not a migration stream`, { path });
}
