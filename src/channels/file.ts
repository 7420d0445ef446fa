import fs from "node:fs";
import { resolve } from "node:path";

import { FormatError } from "../errors/index.js";
import type { OverlappedReader, RandomAccessSource } from "./byte-stream.js";
import { DirectDescriptor, type DirectIo } from "./direct-io.js";
import { OverlappedIo } from "./overlapped-io.js";
import { readAllAt } from "./positioned-io.js";
import { nextDataRange } from "./sparse-file.js";
import { systemError } from "./system-error.js";

/** How a file is opened for reading. */
export interface ReadableFileOptions {
  /** Whether large reads go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
}

/** A file opened for reading at any place. */
export class ReadableFile implements RandomAccessSource, OverlappedReader {
  readonly path: string;
  /** The same, for a process with another working directory. */
  readonly absolutePath: string;
  readonly fd: number;
  readonly sizeBytes: number;
  /** Bytes that the file takes on its device: less than its size when it is sparse. */
  readonly allocatedBytes: number;
  readonly #overlapped: OverlappedIo;
  readonly #direct: DirectDescriptor | undefined;
  #open = true;

  private constructor(path: string, fd: number, stats: fs.Stats, directIo: DirectIo) {
    this.path = path;
    this.absolutePath = resolve(path);
    this.fd = fd;
    this.sizeBytes = stats.size;
    this.allocatedBytes = stats.blocks * 512;
    this.#overlapped = new OverlappedIo(fd, path);
    this.#direct = DirectDescriptor.reopen({ fd, overlapped: this.#overlapped }, path, "read", directIo);
  }

  /**
   * @throws MachineError `io` when the file cannot be opened; FormatError `unsupported` when it is no regular file;
   *   MachineError `not-capable` when direct I/O is required and the file system does not have it.
   */
  static open(path: string, { directIo = "off" }: ReadableFileOptions = {}): ReadableFile {
    let fd: number;
    try {
      // Not blocking: opening a FIFO by mistake must not hang.
      fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    } catch (cause) {
      throw systemError("Opening", path, cause);
    }
    try {
      return new ReadableFile(path, fd, statsOfFile(path, fd), directIo);
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  readAt(target: Uint8Array, position: number): number {
    return this.#direct?.readAt(target, position) ?? readAllAt(this.fd, this.path, target, position);
  }

  /** The first range at or after `offset` that holds data, cut at `end`; undefined when only a hole is left. */
  nextDataRange(offset: number, end: number): { start: number; end: number } | undefined {
    return nextDataRange(this.fd, offset, end);
  }

  /** Whether large reads go past the page cache. */
  get isDirect(): boolean {
    return this.#direct !== undefined;
  }

  startRead(target: Uint8Array, position: number): Promise<number> {
    return this.#direct?.startRead(target, position) ?? this.#overlapped.read(target, position);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    const close = (): void => this.#overlapped.whenIdle(() => fs.closeSync(this.fd));
    if (this.#direct === undefined) close();
    else this.#direct.whenIdle(close);
  }
}

function statsOfFile(path: string, fd: number): fs.Stats {
  const stats = fs.fstatSync(fd);
  if (stats.isFile()) return stats;
  const what = stats.isDirectory() ? "a directory" : "no regular file";
  throw new FormatError("unsupported", `${path} is ${what}`, { path, hint: "name a snapshot file" });
}
