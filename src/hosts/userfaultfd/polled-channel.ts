import type { ByteChannel, DetachedConnection } from "../../channels/index.js";
import { MachineError } from "../../errors/index.js";
import { PollFor, type PollLoop, type PollWatch } from "./poll-loop.js";
import { Errno, type UffdCalls } from "./system.js";

/**
 * Most that one read gives. What came is worked off before the next look at what the guest waits for, so much less than a
 * socket holds is read at a time: 16 pages.
 */
const READ_BYTES = 64 << 10;
const SHUT_WR = 1;
const SHUT_RDWR = 2;

interface WaitingRead {
  readonly target: Uint8Array;
  resolve(count: number): void;
  reject(error: Error): void;
}

interface WaitingWrite {
  bytes: Uint8Array;
  resolve(): void;
  reject(error: Error): void;
}

/** A connected socket as a channel, in a thread whose loop is a {@link PollLoop}. */
export class PolledChannel implements ByteChannel {
  readonly #calls: UffdCalls;
  readonly #loop: PollLoop;
  readonly #watch: PollWatch;
  readonly #peer: string;
  #unread: Uint8Array;
  #read: WaitingRead | undefined;
  readonly #writes: WaitingWrite[] = [];
  #closed = false;

  /** @param connection Owned by the channel from here on. */
  constructor(calls: UffdCalls, loop: PollLoop, { fd, unread, peer }: DetachedConnection) {
    this.#calls = calls;
    this.#loop = loop;
    this.#peer = peer;
    this.#unread = unread;
    this.#watch = { fd, events: 0, onReady: () => this.#ready() };
    loop.add(this.#watch);
  }

  read(target: Uint8Array): Promise<number> {
    if (this.#unread.length > 0) {
      const count = Math.min(target.length, this.#unread.length);
      target.set(this.#unread.subarray(0, count));
      this.#unread = this.#unread.subarray(count);
      return Promise.resolve(count);
    }
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(this.#failure("Reading"));
        return;
      }
      this.#read = { target, resolve, reject };
      this.#update();
    });
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(this.#failure("Writing"));
        return;
      }
      this.#writes.push({ bytes, resolve, reject });
      if (this.#writes.length === 1) this.#tryWrite();
      this.#update();
    });
  }

  async end(): Promise<void> {
    if (this.#writes.length > 0) await this.write(new Uint8Array());
    if (!this.#closed) this.#calls.shutdown(this.#watch.fd, SHUT_WR);
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    this.#loop.remove(this.#watch);
    this.#calls.shutdown(this.#watch.fd, SHUT_RDWR);
    this.#calls.close(this.#watch.fd);
    this.#read?.reject(this.#failure("Reading"));
    this.#read = undefined;
    for (const write of this.#writes.splice(0)) write.reject(this.#failure("Writing"));
    return Promise.resolve();
  }

  #ready(): void {
    if (this.#read !== undefined) this.#tryRead(this.#read);
    if (this.#writes.length > 0) this.#tryWrite();
    this.#update();
  }

  #tryRead(read: WaitingRead): void {
    const { target } = read;
    const count = this.#calls.read(this.#watch.fd, target, Math.min(target.length, READ_BYTES));
    const errno = count < 0 ? this.#calls.errno() : 0;
    if (errno === Errno.EAGAIN || errno === Errno.EINTR) return;
    this.#read = undefined;
    if (count < 0) read.reject(this.#failure("Reading", errno));
    else read.resolve(count);
  }

  #tryWrite(): void {
    for (let write = this.#writes[0]; write !== undefined; write = this.#writes[0]) {
      const { bytes } = write;
      const count = bytes.length === 0 ? 0 : this.#calls.write(this.#watch.fd, bytes, bytes.length);
      const errno = count < 0 ? this.#calls.errno() : 0;
      if (errno === Errno.EAGAIN || errno === Errno.EINTR) return;
      if (count >= 0 && count < bytes.length) {
        write.bytes = bytes.subarray(count);
        continue;
      }
      this.#writes.shift();
      if (count < 0) write.reject(this.#failure("Writing", errno));
      else write.resolve();
    }
  }

  #update(): void {
    this.#watch.events =
      (this.#read === undefined ? 0 : PollFor.READ) | (this.#writes.length === 0 ? 0 : PollFor.WRITE);
  }

  #failure(action: string, errno?: number): MachineError {
    const why = errno === undefined ? "was closed" : `failed with the system's error number ${errno}`;
    return new MachineError("connection-closed", `${action} failed: the connection to ${this.#peer} ${why}`, {
      path: this.#peer,
    });
  }
}
