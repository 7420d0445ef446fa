import fs from "node:fs";

import { assert } from "../errors/index.js";
import { systemError } from "./system-error.js";

/**
 * Largest write through the page cache; more goes in several calls, one after the other. ext4 takes folios of the size of a
 * write, and several threads that write 512 KiB each to one file took 1.7 s of processor time a GiB where 256 KiB took 0.5,
 * once a file was some GiB long (QEMU's own writes of that size, 2.0).
 */
const CACHED_WRITE_BYTES = 256 << 10;

/**
 * Reads and writes at places of one descriptor that run in Node's thread pool while this thread goes on: several at a
 * time are how a file is read and written by more than one core. It keeps the descriptor open until the last of them has
 * ended: a number that was closed too early could be another file's by then.
 */
export class OverlappedIo {
  readonly #fd: number;
  readonly #path: string;
  readonly #direct: boolean;
  #pending = 0;
  #closed: (() => void) | undefined;

  /**
   * @param path What the file is called in errors.
   * @param options.direct It was opened with O_DIRECT. Writes then go in one call, and a read ends when the kernel gave less
   *   than was asked for: the place behind that is not aligned.
   */
  constructor(fd: number, path: string, options: { readonly direct?: boolean } = {}) {
    this.#fd = fd;
    this.#path = path;
    this.#direct = options.direct === true;
  }

  /**
   * Reads at `position`; the descriptor's own place stays, and `target` must be left alone meanwhile.
   *
   * @returns How many bytes were read: fewer than there is room for only at the file's end, or with O_DIRECT.
   * @throws MachineError `io`.
   */
  read(target: Uint8Array, position: number): Promise<number> {
    return this.#start("Reading", target, position, (bytes, at, place, done) =>
      fs.read(this.#fd, bytes, at, bytes.length - at, place, done),
    );
  }

  /**
   * Writes all of `bytes` at `position`; they must stay as they are meanwhile.
   *
   * @throws MachineError `io`.
   */
  async write(bytes: Uint8Array, position: number): Promise<void> {
    const most = this.#direct ? bytes.length : CACHED_WRITE_BYTES;
    await this.#start("Writing", bytes, position, (source, at, place, done) =>
      fs.write(this.#fd, source, at, Math.min(most, source.length - at), place, done),
    );
  }

  /** Calls `close` when nothing runs any more: now, or when the last operation has ended. Nothing may be started after it. */
  whenIdle(close: () => void): void {
    assert(this.#closed === undefined, "a descriptor that is closed once");
    this.#closed = close;
    if (this.#pending === 0) close();
  }

  #start(
    verb: "Reading" | "Writing",
    bytes: Uint8Array,
    position: number,
    transfer: (
      bytes: Uint8Array,
      at: number,
      position: number,
      done: (error: Error | null, count: number) => void,
    ) => void,
  ): Promise<number> {
    assert(this.#closed === undefined, "an operation on a descriptor that was closed");
    this.#pending += 1;
    return new Promise((resolve, reject) => {
      let at = 0;
      const isEnough = verb === "Reading" && this.#direct;
      const step = (error: Error | null, count: number): void => {
        at += error === null ? count : 0;
        // The kernel may do less than it was asked for; none at all is the end of the file.
        if (error === null && count > 0 && at < bytes.length && !isEnough) {
          transfer(bytes, at, position + at, step);
          return;
        }
        this.#pending -= 1;
        if (this.#pending === 0) this.#closed?.();
        if (error === null) resolve(at);
        else reject(systemError(verb, this.#path, error));
      };
      transfer(bytes, 0, position, step);
    });
  }
}
