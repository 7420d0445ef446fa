import fs from "node:fs";
import { resolve } from "node:path";

import { FormatError } from "../errors/index.js";
import type { OverlappedReader, RandomAccessSource } from "./byte-stream.js";
import { OverlappedIo } from "./overlapped-io.js";
import { readAllAt } from "./positioned-io.js";
import { systemError } from "./system-error.js";

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
  #open = true;

  private constructor(path: string, fd: number, stats: fs.Stats) {
    this.path = path;
    this.absolutePath = resolve(path);
    this.fd = fd;
    this.sizeBytes = stats.size;
    this.allocatedBytes = stats.blocks * 512;
    this.#overlapped = new OverlappedIo(fd, path);
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
    return readAllAt(this.fd, this.path, target, position);
  }

  startRead(target: Uint8Array, position: number): Promise<number> {
    return this.#overlapped.read(target, position);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#overlapped.whenIdle(() => fs.closeSync(this.fd));
  }
}
