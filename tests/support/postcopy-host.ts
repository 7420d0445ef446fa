/**
 * A machine whose guest waits for pages that are missing, in plain memory: what userfaultfd does for a real one.
 *
 * @module
 */

import {
  type DeviceState,
  type HostRamBlock,
  type MigrationHost,
  type OnMissingPage,
  type PostcopyBlock,
  type PostcopyConnection,
  type PostcopyEvents,
  type PostcopyHost,
  PostcopyListener,
  type PostcopyListening,
  type PostcopyMemory,
  type PostcopyStart,
  ShadowDirtyLog,
} from "../../src/engine/index.js";

/** What missing memory is filled with: seen where a page is read that has not come. */
const POISON = 0xdb;

/** A block of {@link PagedMemory}. Bytes. */
export interface PagedBlock {
  readonly name: string;
  readonly usedLength: number;
  readonly hostPageSize: number;
}

interface PagedState extends PagedBlock {
  readonly bytes: Uint8Array;
  /** By host page. */
  readonly missing: Uint8Array;
}

/** Memory with pages that are missing, and guests that wait for them. */
export class PagedMemory implements PostcopyMemory {
  readonly blocks: readonly PagedState[];
  /** How many host pages each call placed. */
  readonly placements: number[] = [];
  hasEnded = false;
  readonly #targetPageSize: number;
  readonly #waiting = new Map<string, (() => void)[]>();
  #onMissing: OnMissingPage = () => {
    throw new Error("pages are missing before LISTEN");
  };

  constructor(blocks: readonly PagedBlock[], targetPageSize: number) {
    this.#targetPageSize = targetPageSize;
    this.blocks = blocks.map((block) => ({
      ...block,
      bytes: new Uint8Array(block.usedLength),
      missing: new Uint8Array(block.usedLength / block.hostPageSize),
    }));
  }

  begin(blocks: readonly PostcopyBlock[], onMissing: OnMissingPage): void {
    this.#onMissing = onMissing;
    for (const { index, received, hostPageSize } of blocks) {
      if (received === undefined) continue;
      const { bytes, missing } = this.#block(index);
      const perHostPage = hostPageSize / this.#targetPageSize;
      for (let page = 0; page < missing.length; page++) {
        const came = (target: number): boolean => (received[target >> 3]! >> (target & 7)) % 2 === 1;
        let whole = true;
        for (let n = 0; n < perHostPage; n++) whole &&= came(page * perHostPage + n);
        if (whole) continue;
        missing[page] = 1;
        bytes.fill(POISON, page * hostPageSize, (page + 1) * hostPageSize);
      }
    }
  }

  place(index: number, address: number, bytes: Uint8Array, at: number, length: number): void {
    this.#install(index, address, length, (target) => target.set(bytes.subarray(at, at + length)));
  }

  placeZero(index: number, address: number, length: number): void {
    this.#install(index, address, length, (target) => target.fill(0));
  }

  end(): void {
    this.hasEnded = true;
    for (const { bytes, missing, hostPageSize } of this.blocks) {
      for (let page = 0; page < missing.length; page++) {
        if (missing[page] === 1) bytes.fill(0, page * hostPageSize, (page + 1) * hostPageSize);
        missing[page] = 0;
      }
    }
    for (const wake of [...this.#waiting.values()].flat()) wake();
    this.#waiting.clear();
  }

  /** Resolves when the page at the address is there; only then may it be read or written. */
  async touch(index: number, address: number): Promise<void> {
    const { missing, hostPageSize } = this.#block(index);
    const page = Math.floor(address / hostPageSize);
    while (missing[page] === 1) {
      const woken = new Promise<void>((resolve) => {
        const key = `${index} ${page}`;
        this.#waiting.set(key, [...(this.#waiting.get(key) ?? []), resolve]);
      });
      this.#onMissing(index, address);
      await woken;
    }
  }

  #install(index: number, address: number, length: number, write: (target: Uint8Array) => void): void {
    const { bytes, missing, hostPageSize } = this.#block(index);
    if (length <= 0 || address % hostPageSize !== 0 || length % hostPageSize !== 0) {
      throw new Error(`EINVAL: ${length} bytes at ${address}`);
    }
    const first = address / hostPageSize;
    const count = length / hostPageSize;
    for (let page = first; page < first + count; page++) {
      if (missing[page] !== 1) throw new Error(`EEXIST: page ${page} of block ${index}`);
      missing[page] = 0;
    }
    write(bytes.subarray(address, address + length));
    this.placements.push(count);
    for (let page = first; page < first + count; page++) {
      const key = `${index} ${page}`;
      const waiting = this.#waiting.get(key) ?? [];
      this.#waiting.delete(key);
      for (const wake of waiting) wake();
    }
  }

  #block(index: number): PagedState {
    const block = this.blocks[index];
    if (block === undefined) throw new Error(`no block ${index}`);
    return block;
  }
}

/** A machine of such memory. It takes whatever devices come, as bytes. */
export class PostcopyToyHost implements MigrationHost, PostcopyHost {
  readonly machine: string;
  readonly pageSize: number;
  readonly memory: PagedMemory;
  running = false;
  suspended = false;
  runCount = 0;
  devices: readonly DeviceState[] = [];

  constructor(machine: string, blocks: readonly PagedBlock[], pageSize = 4096) {
    this.machine = machine;
    this.pageSize = pageSize;
    this.memory = new PagedMemory(blocks, pageSize);
  }

  get postcopy(): PostcopyHost {
    return this;
  }

  get hostPageSizes(): readonly number[] {
    return this.memory.blocks.map(({ hostPageSize }) => hostPageSize);
  }

  listen(
    start: PostcopyStart,
    connection: PostcopyConnection,
    events: PostcopyEvents,
  ): Promise<PostcopyListening> {
    return PostcopyListener.begin(start, this.memory, connection, events);
  }

  ramBlocks(): readonly HostRamBlock[] {
    return this.memory.blocks.map(({ name, usedLength, bytes }) => ({ name, usedLength, segments: [bytes] }));
  }

  run(): Promise<void> {
    this.running = true;
    this.runCount += 1;
    return Promise.resolve();
  }

  stop(): Promise<void> {
    this.running = false;
    return Promise.resolve();
  }

  startDirtyLog(): ShadowDirtyLog {
    return new ShadowDirtyLog(() => this.ramBlocks(), this.pageSize);
  }

  saveDevices(): readonly DeviceState[] {
    return this.devices.map((device) => ({
      ...device,
      fields: [{ name: "payload", type: "buffer", size: device.payload.length }],
    }));
  }

  checkDevices(): void {
    // Whatever they are.
  }

  loadDevices(devices: readonly DeviceState[]): void {
    this.devices = devices;
  }
}
