import type { ByteChannel } from "../../src/channels/index.js";
import { MachineError } from "../../src/errors/index.js";
import type { Random } from "../support/random.js";
import type { VirtualClock } from "./virtual-clock.js";

/** What a connection is like, and what goes wrong with it. */
export interface LinkSpec {
  readonly latencyMs: number;
  readonly bytesPerMs: number;
  /** Bytes under way and not yet read, in each direction, before a writer has to wait. */
  readonly capacity: number;
  /** Reads give at most so many bytes. */
  readonly longestRead: number;
  /** Writes are accepted in at most so many pieces of random length. */
  readonly mostPieces: number;
  /** A writer hears late that its bytes were accepted, as in a process that is busy with its guest. */
  readonly lateWrites: boolean;
  /** The connection is reset when so many bytes have been accepted in a direction, perhaps counted from the devices on. */
  readonly resetAt?: ResetSpec;
  /** One in so many pieces takes so much longer, and what follows waits behind it; a few times at most. */
  readonly stall?: { readonly oneIn: number; readonly ms: number };
  /** Bytes that had arrived and were not read are lost in a reset, as with TCP. */
  readonly resetLosesBytes: boolean;
}

interface ResetSpec {
  readonly direction: "forward" | "back";
  readonly counted: "from-begin" | "from-devices";
  readonly bytes: number;
}

const MOST_STALLS = 8;
const LATE_MS = [0, 0, 0, 1, 12, 70] as const;

interface Pending {
  readonly bytes: Uint8Array;
  done: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly waited: () => void;
}

interface Reader {
  readonly target: Uint8Array;
  readonly resolve: (count: number) => void;
  readonly reject: (error: Error) => void;
  readonly waited: () => void;
}

/** A connection with two ends: what the source sends, and the return path. */
export class SimLink {
  readonly source: ByteChannel;
  readonly destination: ByteChannel;
  readonly forward: Direction;
  readonly back: Direction;
  readonly #clock: VirtualClock;
  readonly #spec: LinkSpec;
  #reset = false;
  #resetAtBytes: number;

  constructor(spec: LinkSpec, clock: VirtualClock, random: Random) {
    this.#spec = spec;
    const { resetAt } = spec;
    this.#resetAtBytes = resetAt?.counted === "from-begin" ? resetAt.bytes : Number.POSITIVE_INFINITY;
    this.#clock = clock;
    const direction = (name: "forward" | "back"): Direction =>
      new Direction(name, spec, clock, random, {
        onBytes: (bytes) => this.#watch(name, bytes),
        bytesLeft: () => this.#bytesLeft(name),
      });
    this.forward = direction("forward");
    this.back = direction("back");
    this.source = new End("source", this.forward, this.back);
    this.destination = new End("destination", this.back, this.forward);
  }

  get wasReset(): boolean {
    return this.#reset;
  }

  /** The devices are saved now: a reset that counts from here has its place. */
  devicesFollow(): void {
    const { resetAt } = this.#spec;
    if (resetAt?.counted !== "from-devices" || Number.isFinite(this.#resetAtBytes)) return;
    this.#resetAtBytes = this[resetAt.direction].acceptedBytes + resetAt.bytes;
  }

  /** Bytes that a direction still takes before the connection is reset. */
  #bytesLeft(direction: "forward" | "back"): number {
    if (direction !== this.#spec.resetAt?.direction) return Number.POSITIVE_INFINITY;
    return this.#resetAtBytes - this[direction].acceptedBytes;
  }

  /** Says whether bytes may still be accepted. */
  #watch(direction: "forward" | "back", bytes: number): boolean {
    if (direction !== this.#spec.resetAt?.direction || bytes < this.#resetAtBytes) return true;
    if (!this.#reset) {
      this.#reset = true;
      this.#clock.note(() => `the connection is reset at byte ${bytes} ${direction}`);
      this.forward.fail();
      this.back.fail();
    }
    return false;
  }
}

/** When a direction is reset. */
interface Fate {
  /** Says whether it still stands with so many bytes accepted. */
  onBytes(acceptedBytes: number): boolean;
  bytesLeft(): number;
}

/** One direction of a connection. */
class Direction {
  /** Everything that was accepted from the writer. */
  readonly accepted: Uint8Array[] = [];
  acceptedBytes = 0;
  readonly #name: string;
  readonly #spec: LinkSpec;
  readonly #clock: VirtualClock;
  readonly #random: Random;
  readonly #fate: Fate;
  #pending: Pending[] = [];
  /** Under way, in order; the end of it all is undefined. */
  readonly #travelling: (Uint8Array | undefined)[] = [];
  #arrived: Uint8Array[] = [];
  /** Bytes that are under way or not read. */
  #held = 0;
  #freeAtMs = 0;
  #reader: Reader | undefined;
  #ended = false;
  #endSent = false;
  #stalls = 0;
  #finished = false;
  #writerGone = false;
  #readerGone = false;
  #failed = false;
  #onAccepted: { readonly resolve: () => void; readonly reject: (error: Error) => void }[] = [];

  constructor(name: "forward" | "back", spec: LinkSpec, clock: VirtualClock, random: Random, fate: Fate) {
    this.#name = name;
    this.#spec = spec;
    this.#clock = clock;
    this.#random = random;
    this.#fate = fate;
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#failed || this.#writerGone || this.#ended) return Promise.reject(closed());
    return new Promise((resolve, reject) => {
      const waited = this.#clock.waits(`a write ${this.#name}`);
      this.#pending.push({ bytes, done: 0, resolve, reject, waited });
      this.#pump();
    });
  }

  read(target: Uint8Array): Promise<number> {
    if (this.#readerGone) return Promise.reject(closed());
    if (this.#arrived.length > 0) return Promise.resolve(this.#give(target));
    if (this.#failed) return Promise.reject(closed());
    if (this.#finished) return Promise.resolve(0);
    return new Promise((resolve, reject) => {
      this.#reader = { target, resolve, reject, waited: this.#clock.waits(`a read ${this.#name}`) };
    });
  }

  /** The writer has no more: its reader hears so behind the last byte. */
  end(): Promise<void> {
    if (this.#failed || this.#writerGone) return Promise.reject(closed());
    if (this.#ended) return Promise.resolve();
    this.#ended = true;
    return new Promise((resolve, reject) => {
      this.#onAccepted.push({ resolve, reject });
      this.#pump();
    });
  }

  /** The writer has gone: what was accepted still arrives, then nothing. */
  closeWriter(): void {
    if (this.#writerGone) return;
    this.#writerGone = true;
    for (const { reject, waited } of this.#pending.splice(0)) {
      waited();
      reject(closed());
    }
    this.#pump();
  }

  /** The reader has gone: a writer finds out. */
  closeReader(): void {
    if (this.#readerGone) return;
    this.#readerGone = true;
    this.#settleReader((reader) => reader.reject(closed()));
    this.#clock.after(this.#spec.latencyMs, `reader ${this.#name} gone`, () => this.fail());
  }

  /** The connection is no more. */
  fail(): void {
    if (this.#failed) return;
    this.#failed = true;
    if (this.#spec.resetLosesBytes) this.#arrived = [];
    for (const { reject, waited } of this.#pending.splice(0)) {
      waited();
      reject(closed());
    }
    for (const { reject } of this.#onAccepted.splice(0)) reject(closed());
    if (this.#arrived.length === 0) this.#settleReader((reader) => reader.reject(closed()));
  }

  #pump(): void {
    while (this.#pending.length > 0 && !this.#failed) {
      const write = this.#pending[0]!;
      const room = this.#spec.capacity - this.#held;
      if (write.done < write.bytes.length) {
        // Not byte by byte into a buffer that is read byte by byte.
        if (room < Math.min(write.bytes.length - write.done, this.#spec.capacity / 4)) return;
        this.#accept(write, room);
        if (!this.#fate.onBytes(this.acceptedBytes)) return;
        continue;
      }
      this.#pending.shift();
      write.waited();
      const lateMs = this.#spec.lateWrites ? LATE_MS[this.#random.below(LATE_MS.length)]! : 0;
      if (lateMs === 0) write.resolve();
      else this.#clock.after(lateMs, "write accepted", write.resolve);
    }
    if (this.#failed || this.#finished || !(this.#ended || this.#writerGone)) return;
    for (const { resolve } of this.#onAccepted.splice(0)) resolve();
    if (this.#endSent) return;
    this.#endSent = true;
    this.#send(undefined);
  }

  #accept(write: Pending, room: number): void {
    const left = write.bytes.length - write.done;
    const { mostPieces, bytesPerMs, stall } = this.#spec;
    let length = Math.min(left, room);
    if (mostPieces > 1) {
      length = Math.min(
        length,
        Math.ceil(write.bytes.length / mostPieces) + this.#random.below(write.bytes.length),
      );
    }
    length = Math.min(length, this.#fate.bytesLeft());
    if (length <= 0) length = 1;
    const piece = write.bytes.slice(write.done, write.done + length);
    write.done += length;
    this.accepted.push(piece);
    this.acceptedBytes += length;
    this.#held += length;
    const nowMs = this.#clock.now();
    if (stall !== undefined && this.#stalls < MOST_STALLS && this.#random.below(stall.oneIn) === 0) {
      this.#stalls += 1;
      this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + stall.ms;
    }
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + length / bytesPerMs;
    this.#send(piece);
  }

  #send(piece: Uint8Array | undefined): void {
    this.#travelling.push(piece);
    const inMs = Math.max(0, this.#freeAtMs - this.#clock.now()) + this.#spec.latencyMs;
    // Whichever of two simultaneous events comes first: what was sent first arrives first.
    this.#clock.after(inMs, `bytes ${this.#name}`, () => this.#arrive(this.#travelling.shift()));
  }

  #arrive(piece: Uint8Array | undefined): void {
    if (this.#readerGone) return;
    if (this.#failed && this.#spec.resetLosesBytes) return;
    if (piece === undefined) {
      this.#finished = true;
      if (this.#arrived.length === 0) this.#settleReader((reader) => reader.resolve(0));
      return;
    }
    this.#arrived.push(piece);
    this.#settleReader((reader) => reader.resolve(this.#give(reader.target)));
  }

  #give(target: Uint8Array): number {
    const piece = this.#arrived[0]!;
    const { longestRead } = this.#spec;
    const most = Math.min(piece.length, target.length, longestRead);
    const count = longestRead > 1 && this.#random.below(4) === 0 ? 1 + this.#random.below(most) : most;
    target.set(piece.subarray(0, count));
    if (count === piece.length) this.#arrived.shift();
    else this.#arrived[0] = piece.subarray(count);
    this.#held -= count;
    this.#pump();
    return count;
  }

  #settleReader(settle: (reader: Reader) => void): void {
    const reader = this.#reader;
    if (reader === undefined) return;
    this.#reader = undefined;
    reader.waited();
    settle(reader);
  }
}

class End implements ByteChannel {
  readonly #out: Direction;
  readonly #in: Direction;
  readonly name: string;

  constructor(name: string, out: Direction, incoming: Direction) {
    this.name = name;
    this.#out = out;
    this.#in = incoming;
  }

  read(target: Uint8Array): Promise<number> {
    return this.#in.read(target);
  }

  write(bytes: Uint8Array): Promise<void> {
    return this.#out.write(bytes);
  }

  end(): Promise<void> {
    return this.#out.end();
  }

  close(): Promise<void> {
    this.#out.closeWriter();
    this.#in.closeReader();
    return Promise.resolve();
  }
}

function closed(): MachineError {
  return new MachineError("connection-closed", "The connection was closed");
}
