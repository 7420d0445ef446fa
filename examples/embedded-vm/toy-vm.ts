import { setImmediate as nextTurn } from "node:timers/promises";

import {
  type DeviceState,
  type DirtyLog,
  type HostRamBlock,
  MarkedDirtyLog,
  type MigrationHost,
} from "ramport/engine";
import { FormatError } from "ramport/errors";

const PAGE = 4096;
const PAGES = 2048;
const STATE_BYTES = 12;

/**
 * A virtual machine of one instruction: take the next page of memory, check that it holds what the program put there the
 * last time, and put something new there. Its registers are its only device.
 */
export class ToyVm implements MigrationHost {
  readonly machine = "toy-1.0";
  readonly pageSize = PAGE;
  running = false;
  runCount = 0;
  /** Passes over memory; pages that were not as the program had left them. */
  passes = 0;
  wrong = 0;
  readonly #ram = new Uint32Array((PAGES * PAGE) / 4);
  #page = 0;
  #log: MarkedDirtyLog | undefined;
  #idle: Promise<void> = Promise.resolve();

  ramBlocks(): readonly HostRamBlock[] {
    const bytes = new Uint8Array(this.#ram.buffer);
    return [{ name: "toy.ram", usedLength: bytes.length, segments: [bytes] }];
  }

  run(): Promise<void> {
    if (this.running) return Promise.resolve();
    this.running = true;
    this.runCount += 1;
    this.#idle = this.#execute();
    return Promise.resolve();
  }

  /** Resolves when the last instruction is done: memory and registers then hold still. */
  async stop(): Promise<void> {
    this.running = false;
    await this.#idle;
  }

  startDirtyLog(): DirtyLog {
    this.#log = new MarkedDirtyLog(() => this.ramBlocks(), PAGE);
    return this.#log;
  }

  saveDevices(): readonly DeviceState[] {
    const payload = new Uint8Array(STATE_BYTES);
    const view = new DataView(payload.buffer);
    view.setUint32(0, this.#page);
    view.setUint32(4, this.passes);
    view.setUint32(8, this.wrong);
    // What the payload is made of: `ramport inspect` shows it, and a loader knows its length by it.
    const fields = ["page", "passes", "wrong"].map((name) => ({ name, type: "uint32", size: 4 }));
    return [{ name: "toy-cpu", instance: 0, version: 1, payload, fields }];
  }

  checkDevices(devices: readonly DeviceState[]): void {
    const [cpu, second] = devices;
    const known = cpu?.name === "toy-cpu" && cpu.version === 1 && cpu.payload.length === STATE_BYTES;
    if (!known || second !== undefined) throw new FormatError("unsupported", "These are no devices of a toy");
  }

  loadDevices(devices: readonly DeviceState[]): void {
    this.checkDevices(devices);
    const { buffer, byteOffset } = devices[0]?.payload ?? new Uint8Array(STATE_BYTES);
    const view = new DataView(buffer, byteOffset);
    this.#page = view.getUint32(0);
    this.passes = view.getUint32(4);
    this.wrong = view.getUint32(8);
  }

  async #execute(): Promise<void> {
    while (this.running) {
      for (let steps = 0; steps < 256; steps++) this.#step();
      await nextTurn();
    }
  }

  #step(): void {
    const words = this.#ram.subarray((this.#page * PAGE) / 4, ((this.#page + 1) * PAGE) / 4);
    if (words[0] !== this.passes * (this.#page + 1)) this.wrong += 1;
    words.fill((this.passes + 1) * (this.#page + 1));
    this.#log?.mark(0, this.#page * PAGE, PAGE);
    this.#page = (this.#page + 1) % PAGES;
    if (this.#page === 0) this.passes += 1;
  }
}
