import fs from "node:fs";

import { MachineError } from "../errors/index.js";
import { AlignedSlots, SLOT_BYTES } from "./aligned-slots.js";
import { directAlignment } from "./direct-alignment.js";
import { OverlappedIo } from "./overlapped-io.js";
import { type FileAccess, readAllAt, writeAllAt } from "./positioned-io.js";
import { errnoCode, systemError } from "./system-error.js";

/**
 * Whether large reads and writes of a file go past the page cache (O_DIRECT): never; always, and a file system that cannot
 * is an error; or where it can.
 */
export type DirectIo = "off" | "required" | "auto";

/**
 * Less than this goes through the page cache, also where direct I/O is on: a direct write waits for the device, which for
 * small pieces takes longer than all else. Headers, bitmaps of small guests and single pages are such.
 */
const LEAST_BYTES = 64 << 10;

const ACCESS_FLAGS: Readonly<Record<FileAccess, number>> = {
  read: fs.constants.O_RDONLY,
  write: fs.constants.O_WRONLY,
  both: fs.constants.O_RDWR,
};

/** The same file through the page cache. */
export interface BufferedSide {
  readonly fd: number;
  readonly overlapped: OverlappedIo;
}

/** What a piece of a file is divided into: the middle is aligned. */
interface Division {
  readonly head: number;
  readonly body: number;
}

/**
 * A second descriptor of a file, opened with O_DIRECT, beside the one that goes through the page cache. What is aligned
 * goes through this one, what is not through the other, as QEMU does it: the kernel writes cached pages out, and drops
 * them, before a direct access to the same place, so that neither shows old bytes as long as no two accesses to one place
 * run together.
 *
 * Memory that is not aligned is copied through slots that are. Nothing tells a buffer's address: a transfer is tried, and
 * where the kernel refuses it with EINVAL the buffer is remembered.
 */
export class DirectDescriptor {
  readonly #fd: number;
  readonly #path: string;
  readonly #buffered: BufferedSide;
  readonly #keepOpen: boolean;
  readonly #alignBytes: number;
  readonly #overlapped: OverlappedIo;
  readonly #slots = new AlignedSlots();
  readonly #unaligned = new WeakSet<ArrayBufferLike>();
  /** Transfers that run, each of one or more operations. */
  #pending = 0;
  #closed: (() => void) | undefined;

  /**
   * @param fd Open with O_DIRECT.
   * @param path What the file is called in errors.
   * @param keepOpen The descriptor belongs to somebody else.
   */
  constructor(fd: number, path: string, buffered: BufferedSide, keepOpen = false) {
    this.#fd = fd;
    this.#path = path;
    this.#buffered = buffered;
    this.#keepOpen = keepOpen;
    this.#alignBytes = directAlignment(fd);
    this.#overlapped = new OverlappedIo(fd, path, { direct: true });
  }

  /**
   * Opens a file that is open already once more, past the page cache.
   *
   * @param path What the file is called in errors.
   * @returns undefined when direct I/O is off, or `auto` and not possible.
   * @throws MachineError `not-capable` when it is required and the file system, or the system, does not have it.
   */
  static reopen(
    buffered: BufferedSide,
    path: string,
    access: FileAccess,
    wanted: DirectIo,
  ): DirectDescriptor | undefined {
    if (wanted === "off") return undefined;
    // Node has the constant only where the system does.
    const flag = fs.constants.O_DIRECT as number | undefined;
    try {
      if (flag === undefined) throw Object.assign(new Error("no O_DIRECT"), { code: "EINVAL" });
      // Not by its name: that may be another file's by now, or nobody's.
      const fd = fs.openSync(`/proc/self/fd/${buffered.fd}`, ACCESS_FLAGS[access] | flag);
      return new DirectDescriptor(fd, path, buffered);
    } catch (cause) {
      if (wanted === "auto") return undefined;
      throw refused(path, cause);
    }
  }

  /** As `readAllAt`. */
  readAt(target: Uint8Array, position: number): number {
    return this.#divided(target, position, {
      direct: (bytes, at) =>
        this.#tryDirect(
          bytes,
          () => this.#readNow(bytes, at),
          () => this.#readBounced(bytes, at),
        ),
      buffered: (bytes, at) => readAllAt(this.#buffered.fd, this.#path, bytes, at),
    });
  }

  /** Writes all of `bytes` at `position`. */
  writeAt(bytes: Uint8Array, position: number): void {
    this.#divided(bytes, position, {
      direct: (piece, at) =>
        this.#tryDirect(
          piece,
          () => this.#writeNow(piece, at),
          () => this.#writeBounced(piece, at),
        ),
      buffered: (piece, at) => {
        writeAllAt(this.#buffered.fd, this.#path, piece, 0, piece.length, at);
        return piece.length;
      },
    });
  }

  /** As {@link OverlappedIo.read}. */
  startRead(target: Uint8Array, position: number): Promise<number> {
    return this.#overlappedDivided(target, position, {
      direct: (bytes, at) =>
        this.#startDirect(bytes, at, (own, place) => this.#overlapped.read(own, place), "read"),
      buffered: (bytes, at) => this.#buffered.overlapped.read(bytes, at),
    });
  }

  /** As {@link OverlappedIo.write}. */
  async startWrite(bytes: Uint8Array, position: number): Promise<void> {
    const writeAll =
      (io: OverlappedIo) =>
      async (own: Uint8Array, place: number): Promise<number> => {
        await io.write(own, place);
        return own.length;
      };
    await this.#overlappedDivided(bytes, position, {
      direct: (own, at) => this.#startDirect(own, at, writeAll(this.#overlapped), "write"),
      buffered: writeAll(this.#buffered.overlapped),
    });
  }

  /** Closes the descriptor, unless it is somebody else's, and calls `done`, when nothing runs any more. */
  whenIdle(done: () => void): void {
    this.#closed = () => {
      if (!this.#keepOpen) fs.closeSync(this.#fd);
      done();
    };
    if (this.#pending === 0) this.#closed();
  }

  #divide(length: number, position: number): Division {
    const align = this.#alignBytes;
    const head = (align - (position % align)) % align;
    const body = length - head - ((length - head) % align);
    return body < LEAST_BYTES ? { head: length, body: 0 } : { head, body };
  }

  #divided(
    bytes: Uint8Array,
    position: number,
    how: Record<"direct" | "buffered", (bytes: Uint8Array, position: number) => number>,
  ): number {
    const { head, body } = this.#divide(bytes.length, position);
    let done = head === 0 ? 0 : how.buffered(bytes.subarray(0, head), position);
    if (done < head) return done;
    if (body > 0) done += how.direct(bytes.subarray(head, head + body), position + head);
    // Behind an aligned middle, or where the file ended in it.
    if (done < bytes.length) done += how.buffered(bytes.subarray(done), position + done);
    return done;
  }

  async #overlappedDivided(
    bytes: Uint8Array,
    position: number,
    how: Record<"direct" | "buffered", (bytes: Uint8Array, position: number) => Promise<number>>,
  ): Promise<number> {
    const { head, body } = this.#divide(bytes.length, position);
    this.#pending += 1;
    try {
      // One after the other: when one fails, none of the others may go on in the caller's memory.
      let done = head === 0 ? 0 : await how.buffered(bytes.subarray(0, head), position);
      if (done < head) return done;
      if (body > 0) done += await how.direct(bytes.subarray(head, head + body), position + head);
      if (done < bytes.length) done += await how.buffered(bytes.subarray(done), position + done);
      return done;
    } finally {
      this.#pending -= 1;
      if (this.#pending === 0) this.#closed?.();
    }
  }

  #tryDirect(bytes: Uint8Array, straight: () => number, bounced: () => number): number {
    if (!this.#unaligned.has(bytes.buffer)) {
      try {
        return straight();
      } catch (error) {
        if (!isRefusal(error)) throw error;
        this.#unaligned.add(bytes.buffer);
      }
    }
    return bounced();
  }

  #readNow(bytes: Uint8Array, position: number): number {
    try {
      // Once: behind a short count the place is not aligned any more.
      return fs.readSync(this.#fd, bytes, 0, bytes.length, position);
    } catch (cause) {
      throw systemError("Reading", this.#path, cause);
    }
  }

  #writeNow(bytes: Uint8Array, position: number): number {
    writeAllAt(this.#fd, this.#path, bytes, 0, bytes.length, position);
    return bytes.length;
  }

  #readBounced(bytes: Uint8Array, position: number): number {
    const slot = this.#slots.take();
    try {
      for (let at = 0; at < bytes.length; at += SLOT_BYTES) {
        const wanted = Math.min(SLOT_BYTES, bytes.length - at);
        const count = this.#readNow(slot.subarray(0, wanted), position + at);
        bytes.set(slot.subarray(0, count), at);
        if (count < wanted) return at + count;
      }
      return bytes.length;
    } finally {
      this.#slots.release(slot);
    }
  }

  #writeBounced(bytes: Uint8Array, position: number): number {
    const slot = this.#slots.take();
    try {
      for (let at = 0; at < bytes.length; at += SLOT_BYTES) {
        const piece = bytes.subarray(at, at + SLOT_BYTES);
        slot.set(piece);
        this.#writeNow(slot.subarray(0, piece.length), position + at);
      }
      return bytes.length;
    } finally {
      this.#slots.release(slot);
    }
  }

  async #startDirect(
    bytes: Uint8Array,
    position: number,
    transfer: (bytes: Uint8Array, position: number) => Promise<number>,
    kind: "read" | "write",
  ): Promise<number> {
    if (!this.#unaligned.has(bytes.buffer)) {
      try {
        return await transfer(bytes, position);
      } catch (error) {
        if (!isRefusal(error)) throw error;
        this.#unaligned.add(bytes.buffer);
      }
    }
    const slot = this.#slots.take();
    try {
      for (let at = 0; at < bytes.length; at += SLOT_BYTES) {
        const piece = bytes.subarray(at, at + SLOT_BYTES);
        const own = slot.subarray(0, piece.length);
        if (kind === "write") own.set(piece);
        const count = await transfer(own, position + at);
        if (kind === "read") piece.set(own.subarray(0, count));
        if (count < piece.length) return at + count;
      }
      return bytes.length;
    } finally {
      this.#slots.release(slot);
    }
  }
}

/** What a file system answers to memory, a place or a length that it cannot take so. */
function isRefusal(error: unknown): boolean {
  return error instanceof MachineError && errnoCode(error.cause) === "EINVAL";
}

function refused(path: string, cause: unknown): MachineError {
  const code = errnoCode(cause);
  const why =
    code === "EINVAL" || code === "EOPNOTSUPP"
      ? "its file system has no direct I/O"
      : `it cannot be opened a second time (${code ?? "unknown"})`;
  return new MachineError(
    "not-capable",
    `${path} cannot be used past the page cache: ${why}`,
    { path, hint: "leave direct I/O off, or let it be used only where that is possible (auto)" },
    cause,
  );
}
