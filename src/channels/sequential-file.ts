import fs from "node:fs";

import { MachineError } from "../errors/index.js";
import type { ByteChannel } from "./byte-stream.js";
import { syncDescriptor } from "./positioned-io.js";
import { systemError } from "./system-error.js";

/** What a {@link SequentialFile} does at its end. */
export interface SequentialFileOptions {
  /** `end` waits until everything is on the device: for what keeps what is written. */
  readonly syncAtEnd?: boolean;
  /** The descriptor belongs to somebody else, and `close` leaves it open. */
  readonly keepOpen?: boolean;
}

/** A file read or written from front to back, as a channel; also pipes and terminals by descriptor. */
export class SequentialFile implements ByteChannel {
  readonly #path: string;
  readonly #fd: number;
  readonly #options: SequentialFileOptions;
  /** Next place in the file; undefined for what has no places (pipes), or where the descriptor's own place counts. */
  #position: number | undefined;
  #open = true;
  #closed = false;
  /** The calls that run in other threads: until they are back, their descriptor must not become another file's. */
  #running: Promise<unknown> = Promise.resolve();

  constructor(path: string, fd: number, position: number | undefined, options: SequentialFileOptions = {}) {
    this.#path = path;
    this.#fd = fd;
    this.#position = position;
    this.#options = options;
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

  /** Waits until what was written is on the device. */
  async sync(): Promise<void> {
    await this.#run("Writing", () => syncDescriptor(this.#fd));
  }

  async end(): Promise<void> {
    if (this.#options.syncAtEnd === true) await this.sync();
  }

  /** Lets everything that runs or comes fail, and waits until nothing runs; the descriptor stays until `close`. */
  async stop(): Promise<void> {
    this.#open = false;
    await this.#running;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.stop();
    // Standard input and output belong to the process.
    if (this.#fd > 2 && this.#options.keepOpen !== true) fs.closeSync(this.#fd);
  }

  async #transfer(action: string, call: (done: TransferCallback) => void): Promise<number> {
    const start = (): Promise<number> =>
      new Promise((resolve, reject) => {
        call((error, count) => {
          if (error === null) resolve(count);
          else reject(error);
        });
      });
    const count = await this.#run(action, start);
    if (this.#position !== undefined) this.#position += count;
    return count;
  }

  /** Runs one call in another thread; closed before or during it, it fails. */
  async #run<Result>(action: string, start: () => Promise<Result>): Promise<Result> {
    this.#assertOpen();
    const running = start();
    this.#running = Promise.allSettled([this.#running, running]);
    let result: Result;
    try {
      result = await running;
    } catch (cause) {
      throw systemError(action, this.#path, cause);
    }
    this.#assertOpen();
    return result;
  }

  #assertOpen(): void {
    if (!this.#open) {
      throw new MachineError("connection-closed", `${this.#path} was closed`, { path: this.#path });
    }
  }
}

type TransferCallback = (error: NodeJS.ErrnoException | null, count: number) => void;
