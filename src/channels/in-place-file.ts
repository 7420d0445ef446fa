import fs from "node:fs";

import { MachineError } from "../errors/index.js";
import type { ByteChannel, IncomingFile, OutgoingFile } from "./byte-stream.js";
import { DirectDescriptor, type DirectIo } from "./direct-io.js";
import { OverlappedIo } from "./overlapped-io.js";
import { type FileAccess, readAllAt, writeAllAt, zeroRangeAt } from "./positioned-io.js";
import { SequentialFile } from "./sequential-file.js";
import { nextDataRange } from "./sparse-file.js";
import { systemError } from "./system-error.js";

/** How an {@link InPlaceFile} came to be open, and what that means for it. */
export interface InPlaceFileOptions {
  /** Where the stream begins in the file, in bytes. */
  readonly startOffset: number;
  /** What the descriptor was opened for. */
  readonly access: FileAccess;
  /** The descriptor belongs to somebody else, and `close` leaves it open. */
  readonly keepOpen?: boolean;
  /**
   * Front to back, reading and writing move the descriptor's own place, as whoever shares the descriptor expects;
   * otherwise they leave it alone.
   */
  readonly sharesPlace?: boolean;
  /** The file was cut off at the start: closed before it was synced, it is cut off there again. */
  readonly emptied?: boolean;
  /** Whether large reads and writes at places go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
  /** A descriptor of the same file that is open with O_DIRECT and belongs to somebody else: it is used instead of a new one. */
  readonly directFd?: number;
}

/**
 * A regular file that somebody else chose and may have made: it is read or written where it is, both from front to back
 * and at any place. The two ways are independent of each other: each starts at the start offset.
 *
 * A file that was emptied for writing is whole when `sync` (which `end` is too) has succeeded after the last write.
 * Closed before that, it is cut off at its start again: nothing that looks like a migration stays.
 */
export class InPlaceFile implements ByteChannel, IncomingFile, OutgoingFile {
  readonly startOffset: number;
  readonly #path: string;
  readonly #fd: number;
  readonly #access: FileAccess;
  readonly #emptied: boolean;
  readonly #stream: SequentialFile;
  readonly #overlapped: OverlappedIo;
  readonly #direct: DirectDescriptor | undefined;
  #open = true;
  #writes = 0;
  #whole = false;
  #unwanted = false;
  #closing: Promise<void> | undefined;

  /**
   * @param path What the file is called in errors.
   * @throws MachineError `not-capable` when direct I/O is required and the file system does not have it.
   */
  constructor(path: string, fd: number, options: InPlaceFileOptions) {
    this.#path = path;
    this.#fd = fd;
    this.startOffset = options.startOffset;
    this.#access = options.access;
    this.#emptied = options.emptied === true;
    this.#stream = new SequentialFile(path, fd, options.sharesPlace === true ? undefined : this.startOffset, {
      keepOpen: options.keepOpen === true,
    });
    this.#overlapped = new OverlappedIo(fd, path);
    const buffered = { fd, overlapped: this.#overlapped };
    this.#direct =
      options.directFd === undefined
        ? DirectDescriptor.reopen(buffered, path, options.access, options.directIo ?? "off")
        : new DirectDescriptor(options.directFd, path, buffered, true);
  }

  /** Whether everything goes through the page cache. */
  get isCached(): boolean {
    return this.#direct === undefined;
  }

  get sizeBytes(): number {
    return fs.fstatSync(this.#openFd()).size;
  }

  read(target: Uint8Array): Promise<number> {
    return this.#stream.read(target);
  }

  readAt(target: Uint8Array, position: number): number {
    const fd = this.#readableFd();
    return this.#direct?.readAt(target, position) ?? readAllAt(fd, this.#path, target, position);
  }

  async startRead(target: Uint8Array, position: number): Promise<number> {
    this.#readableFd();
    return this.#direct?.startRead(target, position) ?? this.#overlapped.read(target, position);
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#changes();
    return this.#stream.write(bytes);
  }

  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    this.#changes();
    const fd = this.#openFd();
    if (this.#direct === undefined) writeAllAt(fd, this.#path, bytes, at, length, position);
    else this.#direct.writeAt(bytes.subarray(at, at + length), position);
  }

  async startWrite(bytes: Uint8Array, position: number): Promise<void> {
    this.#openFd();
    this.#changes();
    await (this.#direct?.startWrite(bytes, position) ?? this.#overlapped.write(bytes, position));
  }

  zeroAt(position: number, length: number): void {
    this.#changes();
    zeroRangeAt(this.#openFd(), this.#path, position, length);
  }

  /** The first range at or after `offset` that holds data, cut at `end`; undefined when only a hole is left. */
  nextDataRange(offset: number, end: number): { start: number; end: number } | undefined {
    return nextDataRange(this.#openFd(), offset, end);
  }

  truncate(sizeBytes: number): void {
    this.#changes();
    truncate(this.#openFd(), this.#path, sizeBytes);
  }

  async sync(): Promise<void> {
    const writes = this.#writes;
    await this.#stream.sync();
    this.#whole = writes === this.#writes;
  }

  end(): Promise<void> {
    return this.sync();
  }

  discard(): Promise<void> {
    this.#unwanted = true;
    return this.#finish();
  }

  close(): Promise<void> {
    // Closing is for those who have an error already, or none: what is left of a file that failed is no other one.
    return this.#finish().catch(() => undefined);
  }

  #finish(): Promise<void> {
    this.#closing ??= this.#settle();
    return this.#closing;
  }

  async #settle(): Promise<void> {
    this.#open = false;
    // A write that runs in another thread would make the file long again.
    await this.#stream.stop();
    const direct = this.#direct;
    if (direct !== undefined) await new Promise<void>((resolve) => direct.whenIdle(resolve));
    await new Promise<void>((resolve) => this.#overlapped.whenIdle(resolve));
    try {
      if (this.#unwanted || (this.#emptied && !this.#whole)) truncate(this.#fd, this.#path, this.startOffset);
    } finally {
      await this.#stream.close();
    }
  }

  #changes(): void {
    this.#writes += 1;
    this.#whole = false;
  }

  #readableFd(): number {
    const fd = this.#openFd();
    if (this.#access !== "write") return fd;
    const message = `${this.#path} is open for writing only: nothing can be read back`;
    throw new MachineError("not-capable", message, {
      path: this.#path,
      hint: "let it be opened for reading and writing",
    });
  }

  #openFd(): number {
    if (this.#open) return this.#fd;
    throw new MachineError("connection-closed", `${this.#path} was closed`, { path: this.#path });
  }
}

function truncate(fd: number, path: string, sizeBytes: number): void {
  try {
    fs.ftruncateSync(fd, sizeBytes);
  } catch (cause) {
    throw systemError("Truncating", path, cause);
  }
}
