import type { ByteSink } from "../../src/channels/index.js";
import { MachineError } from "../../src/errors/index.js";
import type { PositionedFile } from "../../src/engine/mapped-ram/positioned-file.js";
import type { VirtualClock } from "./virtual-clock.js";

/** What a file's device is like, and what goes wrong with it. */
export interface FileSpec {
  readonly bytesPerMs: number;
  /** The device is full after so many written bytes. */
  readonly fullAfter?: number;
  readonly syncMs: number;
  readonly syncFails: boolean;
}

const CHUNK = 16 << 10;

/** A sparse file in memory, on a device with a speed and an end. */
export class SimFile implements PositionedFile, ByteSink {
  sizeBytes = 0;
  writtenBytes = 0;
  /** Reading fails once so many reads were made; for loads afterwards. */
  readsLeft = Number.POSITIVE_INFINITY;
  synced = false;
  failed = false;
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #spec: FileSpec;
  readonly #clock: VirtualClock;
  #closed = false;

  constructor(spec: FileSpec, clock: VirtualClock) {
    this.#spec = spec;
    this.#clock = clock;
  }

  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    const { fullAfter = Number.POSITIVE_INFINITY, bytesPerMs } = this.#spec;
    const room = Math.max(0, Math.min(length, fullAfter - this.writtenBytes));
    this.#put(bytes.subarray(at, at + room), position);
    this.writtenBytes += room;
    this.synced = false;
    this.#clock.block(room / bytesPerMs);
    if (room === length) return;
    this.failed = true;
    this.#clock.note(() => `the device is full after ${this.writtenBytes} bytes`);
    throw new MachineError("io", "No space is left on the device");
  }

  readAt(target: Uint8Array, position: number): number {
    if (--this.readsLeft < 0) throw new MachineError("io", "Reading failed");
    const length = Math.max(0, Math.min(target.length, this.sizeBytes - position));
    for (let done = 0; done < length;) {
      const chunk = this.#chunks.get(Math.floor((position + done) / CHUNK));
      const from = (position + done) % CHUNK;
      const count = Math.min(CHUNK - from, length - done);
      if (chunk === undefined) target.fill(0, done, done + count);
      else target.set(chunk.subarray(from, from + count), done);
      done += count;
    }
    return length;
  }

  zeroAt(position: number, length: number): void {
    for (let done = 0; done < length;) {
      const from = (position + done) % CHUNK;
      const count = Math.min(CHUNK - from, length - done);
      this.#chunks.get(Math.floor((position + done) / CHUNK))?.fill(0, from, from + count);
      done += count;
    }
  }

  async sync(): Promise<void> {
    await this.#clock.sleep(this.#spec.syncMs);
    if (this.#spec.syncFails) {
      this.failed = true;
      throw new MachineError("io", "Synchronizing failed");
    }
    this.synced = true;
  }

  /** From front to back, as a stream goes into a file. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#closed) throw new MachineError("connection-closed", "The file was closed");
    await this.#clock.turn();
    this.writeAt(bytes, 0, bytes.length, this.sizeBytes);
  }

  end(): Promise<void> {
    return this.sync();
  }

  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }

  #put(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length;) {
      const index = Math.floor((position + done) / CHUNK);
      const from = (position + done) % CHUNK;
      const count = Math.min(CHUNK - from, bytes.length - done);
      let chunk = this.#chunks.get(index);
      if (chunk === undefined) this.#chunks.set(index, (chunk = new Uint8Array(CHUNK)));
      chunk.set(bytes.subarray(done, done + count), from);
      done += count;
    }
    this.sizeBytes = Math.max(this.sizeBytes, position + bytes.length);
  }
}
