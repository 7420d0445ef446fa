import process from "node:process";

import type { OnMissingPage, PostcopyBlock, PostcopyMemory } from "../../engine/index.js";
import { assert, MachineError } from "../../errors/index.js";
import { PageBitmap } from "../../memory/index.js";
import type { UffdCalls } from "./system.js";
import type { Userfaultfd } from "./userfaultfd.js";

/** A block of the host: where it is in this process. Plain data, for other threads. */
export interface MemoryRegion {
  readonly address: number;
  /** Bytes; whole pages of the system, as the address. */
  readonly length: number;
}

const MADV_DONTNEED = 4;
const MADV_HUGEPAGE = 14;
const MADV_NOHUGEPAGE = 15;

/** Memory of this process in which pages are missing until userfaultfd places them. It is never touched from here. */
export class RegisteredMemory implements PostcopyMemory {
  readonly #uffd: Userfaultfd;
  readonly #calls: UffdCalls;
  readonly #regions: readonly (MemoryRegion | undefined)[];
  /** Places in {@link #regions} of those that are registered. */
  readonly #registered: number[] = [];
  #onMissing: OnMissingPage = () => undefined;
  /** The last buffer that pages came in, and where it is. */
  #buffer: ArrayBufferLike | undefined;
  #bufferAddress = 0;

  /** @param regions One for each of the host's blocks, in its order; undefined for memory that is not only this process's. */
  constructor(uffd: Userfaultfd, calls: UffdCalls, regions: readonly (MemoryRegion | undefined)[]) {
    this.#uffd = uffd;
    this.#calls = calls;
    this.#regions = regions;
  }

  /** @throws MachineError `not-capable` for other pages than the system's, and for memory that cannot be registered; `io`. */
  begin(blocks: readonly PostcopyBlock[], onMissing: OnMissingPage): void {
    this.#onMissing = onMissing;
    for (const { index, name, usedLength, hostPageSize, received } of blocks) {
      if (received === undefined) continue;
      const region = this.#regions[index];
      if (region === undefined) {
        throw new MachineError("not-capable", "Pages of shared memory cannot be missing", {
          block: name,
          hint: "turn x-ignore-shared on at both sides, or give the machine memory of its own",
        });
      }
      assert(usedLength === region.length, `RAM block ${name} has the length of its memory`);
      const systemPageSize = this.#calls.getpagesize();
      if (hostPageSize !== systemPageSize) {
        throw new MachineError("not-capable", "The guest's pages cannot come one by one here", {
          block: name,
          expected: `pages of ${systemPageSize} bytes, as the system has them`,
          actual: hostPageSize,
        });
      }
      // A huge page would be filled up with zeros where pages are missing.
      this.#advise(region.address, region.length, MADV_NOHUGEPAGE);
      this.#uffd.register(region.address, region.length);
      this.#registered.push(index);
      const has = PageBitmap.fromBytes(usedLength / hostPageSize, received);
      for (const { start, end } of has.clearRuns()) {
        const length = (end - start) * hostPageSize;
        this.#advise(region.address + start * hostPageSize, length, MADV_DONTNEED);
      }
    }
  }

  /**
   * Tells of the pages that somebody waits for, and does not wait itself.
   *
   * @param onMissing Who is told; default: whom {@link begin} named.
   */
  takeFaults(onMissing = this.#onMissing): void {
    this.#uffd.takeFaults((address, threadId) => {
      const block = this.#regions.findIndex(
        (region) =>
          region !== undefined && address >= region.address && address < region.address + region.length,
      );
      const region = this.#region(block);
      // The guest runs in the main thread; others read its memory at times.
      const processor = threadId === process.pid ? 0 : undefined;
      onMissing(block, address - region.address, processor);
    });
  }

  place(block: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    const from = this.#addressOf(bytes) + at;
    this.#check(this.#uffd.copy(this.#region(block).address + address, from, length));
  }

  placeZero(block: number, address: number, length: number): void {
    this.#check(this.#uffd.zero(this.#region(block).address + address, length));
  }

  end(): void {
    for (const index of this.#registered.splice(0)) {
      const { address, length } = this.#region(index);
      this.#uffd.unregister(address, length);
      this.#calls.madvise(address, length, MADV_HUGEPAGE);
    }
  }

  /** Lets all who wait for a page look again: each that is still missing is then told of again. */
  wakeAll(): void {
    for (const index of this.#registered) {
      const { address, length } = this.#region(index);
      this.#uffd.wake(address, length);
    }
  }

  #advise(address: number, length: number, advice: number): void {
    if (this.#calls.madvise(address, length, advice) === 0) return;
    // A kernel without huge pages does not know of them.
    if (advice === MADV_NOHUGEPAGE) return;
    throw new MachineError("io", "Guest memory cannot be dropped", {
      hint: "it must not be locked (mlockall, ulimit -l)",
    });
  }

  /** A page that is there already would be lost, or the guest's own, if it were placed again. */
  #check(placed: "placed" | "exists"): void {
    if (placed === "placed") return;
    throw new MachineError("io", "A page that is to be placed is there already");
  }

  #region(index: number): MemoryRegion {
    const region = this.#regions[index];
    assert(region !== undefined, `memory of block ${index}`);
    return region;
  }

  #addressOf(bytes: Uint8Array): number {
    if (bytes.buffer !== this.#buffer) {
      this.#buffer = bytes.buffer;
      this.#bufferAddress = this.#calls.addressOf(new Uint8Array(bytes.buffer));
    }
    return this.#bufferAddress + bytes.byteOffset;
  }
}
