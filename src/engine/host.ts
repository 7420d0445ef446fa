import { throwIfAborted } from "../errors/index.js";
import type { PageBitmap, PageRun } from "../memory/index.js";

/** A piece of guest memory that migrates under its own name. */
export interface HostRamBlock {
  /** What the block list calls it: `pc.ram`. Unique in its host. */
  readonly name: string;
  /** Bytes: a multiple of the host's page size. */
  readonly usedLength: number;
  /**
   * The guest's own memory, in order and without gaps: writing here changes the guest. Each segment but the last is a
   * multiple of 1 MiB, so that no page is divided; there are several because one typed array cannot pass 4 GiB.
   */
  readonly segments: readonly Uint8Array[];
}

/** A field of a device's payload, as the vmstate description shows it. */
export interface DeviceField {
  readonly name: string;
  /** QEMU's name of the type: `uint32`, `buffer`, ... */
  readonly type: string;
  /** Bytes on the wire. */
  readonly size: number;
}

/** The state of one device. */
export interface DeviceState {
  readonly name: string;
  /** Tells devices of one name apart. */
  readonly instance: number;
  /** Layout of the payload: a loader refuses a version that it does not know. */
  readonly version: number;
  readonly payload: Uint8Array;
  /** What the payload is made of; the sizes add up to its length. Read back from a file it is empty. */
  readonly fields: readonly DeviceField[];
}

/** Lets the guest run for a moment, between two slices of a long loop. */
export type Breathe = () => Promise<void>;

/**
 * Says which pages a guest changes while it runs, until {@link stop}.
 *
 * Pages are handed out by the log itself, because what counts as changed depends on what was handed out last.
 */
export interface DirtyLog {
  /**
   * Sets the bits of all pages that have changed since {@link take} gave them out last. A page that never was given out
   * may be left out: it is dirty to its reader anyway.
   *
   * @param dirty One bitmap for each block, in the host's order.
   * @param breathe Called every few milliseconds of work; undefined when the guest stands still.
   */
  sync(dirty: readonly PageBitmap[], breathe: Breathe | undefined): Promise<void>;
  /**
   * Hands out pages as they are now, in one or more pieces of whole pages.
   *
   * @param use Gets each piece with its offset in the block; the bytes are only valid during the call.
   */
  take(block: number, run: PageRun, use: (bytes: Uint8Array, address: number) => void): void;
  stop(): void;
}

/**
 * A machine that is embedded in this program, as the engine sees it: memory, device state, and a way to run and stop.
 *
 * A host checks what it is given before it changes itself: after {@link checkDevices} has returned,
 * {@link loadDevices} fails only for what could not be seen beforehand.
 */
export interface MigrationHost {
  /** Machine type in the configuration section: a file of another machine is refused. */
  readonly machine: string;
  /** Target page size in bytes: a power of two. */
  readonly pageSize: number;
  readonly running: boolean;
  /** The RAM blocks with views that are valid until the guest runs again: ask anew after every wait. */
  ramBlocks(): readonly HostRamBlock[];
  /** Lets the guest go on; does nothing when it runs already. */
  run(): Promise<void>;
  /** Stops the guest between two instructions; memory and device state then hold still. */
  stop(): Promise<void>;
  startDirtyLog(): DirtyLog;
  /** The state of all devices, without what is in the RAM blocks. The guest must be stopped. */
  saveDevices(): readonly DeviceState[];
  /**
   * Says whether these devices could be loaded, and changes nothing.
   *
   * @throws FormatError when they could not: another version, another set of devices, damaged bytes.
   */
  checkDevices(devices: readonly DeviceState[]): void;
  /** Replaces the state of all devices; RAM was loaded before and stays. The guest must be stopped. */
  loadDevices(devices: readonly DeviceState[]): void;
}

/**
 * Calls `use` for the pieces of `address .. address + length` of a block, which its segments divide.
 *
 * @param most Largest piece in bytes, a multiple of the page size.
 */
export function eachPiece(
  segments: readonly Uint8Array[],
  address: number,
  length: number,
  most: number,
  use: (bytes: Uint8Array, address: number) => void,
): void {
  const end = address + length;
  let segmentStart = 0;
  for (const segment of segments) {
    const segmentEnd = segmentStart + segment.length;
    for (let at = Math.max(address, segmentStart); at < Math.min(end, segmentEnd);) {
      const next = Math.min(end, segmentEnd, at + most);
      use(segment.subarray(at - segmentStart, next - segmentStart), at);
      at = next;
    }
    segmentStart = segmentEnd;
  }
}

/** A slice of comparing: about a millisecond of work. */
const COMPARE_SLICE_BYTES = 4 << 20;
const SEGMENT_BYTES = 1 << 30;

/**
 * Finds changed pages by comparing guest memory with a copy of it, for hosts that have no write barrier.
 *
 * The copy holds what was handed out last, not what was compared last: a page that changed, was handed out, and changed
 * back has to be found. It costs as much memory as the guest has, and each {@link sync} reads both once (some 10 GB/s;
 * 64 MiB in about 10 ms); between two syncs the guest runs at full speed.
 */
export class ShadowDirtyLog implements DirtyLog {
  readonly #blocks: () => readonly HostRamBlock[];
  readonly #pageSize: number;
  #shadow: readonly (readonly Uint8Array[])[];

  /** @param blocks Gives the blocks with views that are valid now. */
  constructor(blocks: () => readonly HostRamBlock[], pageSize: number) {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#shadow = blocks().map(({ usedLength }) => allocate(usedLength));
  }

  async sync(dirty: readonly PageBitmap[], breathe: Breathe | undefined): Promise<void> {
    for (const [index, shadow] of this.#shadow.entries()) {
      let address = 0;
      for (const copy of shadow) {
        for (let at = 0; at < copy.length; at += COMPARE_SLICE_BYTES) {
          const slice = copy.subarray(at, at + COMPARE_SLICE_BYTES);
          this.#compare(index, address + at, slice, dirty[index]);
          await breathe?.();
        }
        address += copy.length;
      }
    }
  }

  take(block: number, run: PageRun, use: (bytes: Uint8Array, address: number) => void): void {
    const pageSize = this.#pageSize;
    const start = run.start * pageSize;
    const length = (run.end - run.start) * pageSize;
    const live = this.#blocks()[block]?.segments ?? [];
    eachPiece(this.#shadow[block] ?? [], start, length, SEGMENT_BYTES, (copy, address) => {
      eachPiece(live, address, copy.length, SEGMENT_BYTES, (bytes, at) => copy.set(bytes, at - address));
      use(copy, address);
    });
  }

  stop(): void {
    this.#shadow = [];
  }

  #compare(block: number, address: number, copy: Uint8Array, dirty: PageBitmap | undefined): void {
    const pageSize = this.#pageSize;
    const old = Buffer.from(copy.buffer, copy.byteOffset, copy.length);
    const live = this.#blocks()[block]?.segments ?? [];
    eachPiece(live, address, copy.length, SEGMENT_BYTES, (bytes, start) => {
      const base = start - address;
      for (let at = 0; at < bytes.length; at += pageSize) {
        const same = old.compare(bytes, at, at + pageSize, base + at, base + at + pageSize) === 0;
        if (!same) dirty?.set((start + at) / pageSize);
      }
    });
  }
}

/** Makes a {@link Breathe} that gives the event loop a turn, and throws CancelledError once the signal has fired. */
export function eventLoopTurns(signal: AbortSignal | undefined): Breathe {
  return async () => {
    await new Promise((resolve) => setImmediate(resolve));
    throwIfAborted(signal);
  };
}

function allocate(length: number): Uint8Array[] {
  const segments: Uint8Array[] = [];
  for (let done = 0; done < length; done += SEGMENT_BYTES) {
    segments.push(new Uint8Array(Math.min(SEGMENT_BYTES, length - done)));
  }
  return segments;
}
