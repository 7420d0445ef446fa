import { randomBytes } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { assert, CancelledError, throwIfAborted, UsageError } from "../errors/index.js";
import type { OverlappedReader, OverlappedWriter, RandomAccessSource } from "./byte-stream.js";
import { DirectDescriptor, type DirectIo } from "./direct-io.js";
import { OverlappedIo } from "./overlapped-io.js";
import { readAllAt, syncDescriptor, writeAllAt, zeroRangeAt } from "./positioned-io.js";
import { nextDataRange } from "./sparse-file.js";
import { errnoCode, systemError } from "./system-error.js";

/** How an output file is made. */
export interface OutputFileOptions {
  /** Whether an existing file of that name may be replaced. */
  readonly replace?: boolean;
  /** Whether large reads and writes go past the page cache; default `off`. */
  readonly directIo?: DirectIo;
}

/** What `link` fails with where there are no hard links, or where this user may make none to that file. */
const NO_HARD_LINKS = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV"];
/** What opening or syncing a directory fails with where that cannot be done, and nothing is wrong with the disk. */
const NO_DIRECTORY_SYNC = ["EACCES", "EPERM", "EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EISDIR"];

/**
 * A file that comes into being whole or not at all: it is written under a temporary name beside its place, synced, and
 * renamed. A process that dies leaves at most the temporary name, and for a moment the replaced file's second name.
 */
export class OutputFile implements RandomAccessSource, OverlappedReader, OverlappedWriter {
  readonly path: string;
  /** Where the bytes are until {@link commit}. */
  readonly temporaryPath: string;
  readonly #replace: boolean;
  #fd: number | undefined;
  #overlapped: OverlappedIo | undefined;
  #direct: DirectDescriptor | undefined;
  #state: "open" | "published" | "settled" | "discarded" = "open";
  /** Where the replaced file is, from {@link publish} until it is known that it is not wanted any more. */
  #asidePath: string | undefined;

  private constructor(finalPath: string, temporaryPath: string, replace: boolean) {
    this.path = finalPath;
    this.temporaryPath = temporaryPath;
    this.#replace = replace;
  }

  /**
   * Creates the temporary file, readable by its owner alone: it becomes a guest's memory.
   *
   * @throws UsageError when the path exists and may not be replaced; MachineError `io`, and `not-capable` when direct I/O is
   *   required and the file system does not have it.
   */
  static create(finalPath: string, options: OutputFileOptions = {}): OutputFile {
    const output = OutputFile.reserve(finalPath, options);
    output.#open("wx+");
    try {
      const buffered = { fd: output.fd, overlapped: output.#overlap() };
      output.#direct = DirectDescriptor.reopen(buffered, finalPath, "both", options.directIo ?? "off");
    } catch (error) {
      output.discard();
      throw error;
    }
    return output;
  }

  /**
   * Makes a file that has no name from the start, for what is only needed until {@link discard}, or the process's end.
   *
   * @param folder Where it takes its space; the system's folder for temporary files by default.
   * @throws MachineError `io`.
   */
  static scratch(folder: string = os.tmpdir()): OutputFile {
    const output = OutputFile.create(path.join(folder, "ramport-scratch"), { replace: true });
    fs.rmSync(output.temporaryPath, { force: true });
    return output;
  }

  /**
   * Chooses the temporary name for somebody else to create the file under; {@link adopt} takes it over from there.
   *
   * @throws UsageError when the path exists and may not be replaced.
   */
  static reserve(finalPath: string, options: OutputFileOptions = {}): OutputFile {
    const absolute = path.resolve(finalPath);
    let existing: fs.Stats | undefined;
    try {
      existing = fs.statSync(absolute, { throwIfNoEntry: false });
    } catch (cause) {
      throw systemError("Creating", finalPath, cause);
    }
    const replace = options.replace === true;
    if (existing !== undefined && (!replace || !existing.isFile()))
      throw existsAlready(finalPath, existing.isFile());
    const suffix = randomBytes(4).toString("hex");
    return new OutputFile(
      absolute,
      path.join(path.dirname(absolute), `.${path.basename(absolute)}.${suffix}.part`),
      replace,
    );
  }

  /**
   * Opens the file that somebody else wrote under the reserved name.
   *
   * @throws MachineError `io` when it is not there or may not be written.
   */
  adopt(): void {
    this.#open("r+");
    // Whoever wrote it may have been less careful with a guest's memory.
    if (fs.fstatSync(this.fd).uid === process.getuid?.()) fs.fchmodSync(this.fd, 0o600);
  }

  get fd(): number {
    assert(this.#fd !== undefined, "the output file is not open");
    return this.#fd;
  }

  /** Whether everything goes through the page cache. */
  get isCached(): boolean {
    return this.#direct === undefined;
  }

  get sizeBytes(): number {
    return fs.fstatSync(this.fd).size;
  }

  /** Bytes on the device so far. */
  get allocatedBytes(): number {
    return fs.fstatSync(this.fd).blocks * 512;
  }

  /** Writes `bytes[at .. at+length)` at `position`, all of it. */
  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    if (this.#direct === undefined) writeAllAt(this.fd, this.path, bytes, at, length, position);
    else this.#direct.writeAt(bytes.subarray(at, at + length), position);
  }

  startWrite(bytes: Uint8Array, position: number): Promise<void> {
    return this.#direct?.startWrite(bytes, position) ?? this.#overlap().write(bytes, position);
  }

  startRead(target: Uint8Array, position: number): Promise<number> {
    return this.#direct?.startRead(target, position) ?? this.#overlap().read(target, position);
  }

  /** Gives the file this length; what is new is a hole. */
  truncate(sizeBytes: number): void {
    try {
      fs.ftruncateSync(this.fd, sizeBytes);
    } catch (cause) {
      throw systemError("Writing", this.path, cause);
    }
  }

  readAt(target: Uint8Array, position: number): number {
    return this.#direct?.readAt(target, position) ?? readAllAt(this.fd, this.path, target, position);
  }

  /** The first range at or after `offset` that holds data, cut at `end`; undefined when only a hole is left. */
  nextDataRange(offset: number, end: number): { start: number; end: number } | undefined {
    return nextDataRange(this.fd, offset, end);
  }

  /** Makes `length` bytes at `position` read as zero: a hole where that is possible, written zeros elsewhere. */
  zeroAt(position: number, length: number): void {
    zeroRangeAt(this.fd, this.path, position, length);
  }

  /**
   * Syncs the bytes, gives the file its name and syncs the directory; a replaced file is gone.
   *
   * @param signal Until the file has its name, it still counts: syncing can take long.
   * @throws UsageError when a file of that name has come meanwhile and may not be replaced; MachineError `io`;
   *   CancelledError. The name is then what it was, and the file still to be discarded.
   */
  async commit(signal?: AbortSignal): Promise<void> {
    await this.publish(signal);
    this.settle();
  }

  /**
   * Like {@link commit}, but what was replaced is kept: {@link settle} removes it, {@link takeBack} brings it back.
   *
   * @throws As {@link commit} does.
   */
  async publish(signal?: AbortSignal): Promise<void> {
    assert(this.#state === "open", `publishing a file that is ${this.#state}`);
    let directory: number | undefined;
    try {
      await syncDescriptor(this.fd);
      throwIfAborted(signal);
      // Opened first: what cannot be opened must not be found out when the file has its name.
      directory = openDirectory(path.dirname(this.path));
      if (this.#replace) this.#replaceName();
      else this.#takeName();
      this.#state = "published";
      if (directory !== undefined) await syncDirectory(directory);
      this.#close();
    } catch (cause) {
      if (this.#state === "published") this.takeBack();
      throw cause instanceof CancelledError ? cause : systemError("Writing", this.path, cause);
    } finally {
      if (directory !== undefined) fs.closeSync(directory);
    }
  }

  /** The published file stays: what it replaced is removed. */
  settle(): void {
    assert(this.#state === "published", `settling a file that is ${this.#state}`);
    this.#state = "settled";
    if (this.#asidePath === undefined) return;
    try {
      fs.rmSync(this.#asidePath, { force: true });
    } catch {
      // The new file is whole and in its place: a second name of the old one that stays is no failure.
    }
  }

  /**
   * Undoes {@link publish}: what the file was written for has failed after all. What it replaced has its name again.
   *
   * @throws MachineError `io`.
   */
  takeBack(): void {
    assert(this.#state === "published", `taking back a file that is ${this.#state}`);
    this.#state = "discarded";
    this.#close();
    try {
      if (this.#asidePath === undefined) fs.rmSync(this.path, { force: true });
      else fs.renameSync(this.#asidePath, this.path);
    } catch (cause) {
      throw systemError("Removing", this.path, cause);
    }
  }

  /**
   * Removes what is not settled: the temporary file, or a published one as {@link takeBack} does. After {@link settle} it
   * does nothing, so that a `finally` may call it always.
   */
  discard(): void {
    if (this.#state === "published") this.takeBack();
    if (this.#state !== "open") return;
    this.#state = "discarded";
    this.#close();
    fs.rmSync(this.temporaryPath, { force: true });
  }

  /** A rename would replace a file that came after the first look; a link does not. */
  #takeName(): void {
    try {
      fs.linkSync(this.temporaryPath, this.path);
    } catch (cause) {
      if (errnoCode(cause) === "EEXIST") throw existsAlready(this.path, true);
      if (!isOneOf(NO_HARD_LINKS, cause)) throw cause;
      if (fs.lstatSync(this.path, { throwIfNoEntry: false }) !== undefined)
        throw existsAlready(this.path, true);
      fs.renameSync(this.temporaryPath, this.path);
      return;
    }
    try {
      fs.unlinkSync(this.temporaryPath);
    } catch (cause) {
      fs.rmSync(this.path, { force: true });
      throw cause;
    }
  }

  /** Puts the file in the place of another one, which gets a second name first: there is a whole file all the time. */
  #replaceName(): void {
    const asidePath = this.temporaryPath.replace(/\.part$/, ".old");
    let moved = false;
    try {
      fs.linkSync(this.path, asidePath);
      this.#asidePath = asidePath;
    } catch (cause) {
      if (isOneOf(NO_HARD_LINKS, cause)) {
        if (fs.lstatSync(this.path).isDirectory()) throw existsAlready(this.path, false);
        fs.renameSync(this.path, asidePath);
        this.#asidePath = asidePath;
        moved = true;
      } else if (errnoCode(cause) !== "ENOENT") throw cause;
    }
    try {
      fs.renameSync(this.temporaryPath, this.path);
    } catch (cause) {
      if (moved) fs.renameSync(asidePath, this.path);
      else fs.rmSync(asidePath, { force: true });
      this.#asidePath = undefined;
      throw cause;
    }
  }

  #open(flags: "wx+" | "r+"): void {
    try {
      this.#fd = fs.openSync(this.temporaryPath, flags, 0o600);
    } catch (cause) {
      throw systemError("Creating", this.path, cause);
    }
  }

  #overlap(): OverlappedIo {
    this.#overlapped ??= new OverlappedIo(this.fd, this.path);
    return this.#overlapped;
  }

  #close(): void {
    const fd = this.#fd;
    if (fd === undefined) return;
    this.#fd = undefined;
    const overlapped = this.#overlapped;
    const close = (): void => {
      if (overlapped === undefined) fs.closeSync(fd);
      else overlapped.whenIdle(() => fs.closeSync(fd));
    };
    if (this.#direct === undefined) close();
    else this.#direct.whenIdle(close);
  }
}

function existsAlready(name: string, isFile: boolean): UsageError {
  const hint = isFile ? "choose another name, or replace it with --force" : "name a regular file";
  return new UsageError(`${name} exists already`, { path: path.resolve(name), hint });
}

function isOneOf(codes: readonly string[], error: unknown): boolean {
  return codes.includes(errnoCode(error) ?? "");
}

/** A directory may be writable and not readable; then its name cannot be synced, which is no reason to fail. */
function openDirectory(directory: string): number | undefined {
  try {
    return fs.openSync(directory, "r");
  } catch (cause) {
    if (isOneOf(NO_DIRECTORY_SYNC, cause)) return undefined;
    throw cause;
  }
}

async function syncDirectory(fd: number): Promise<void> {
  try {
    await syncDescriptor(fd);
  } catch (cause) {
    if (!isOneOf(NO_DIRECTORY_SYNC, cause)) throw cause;
  }
}
