import {
  type DeviceState,
  type HostRamBlock,
  type MigrationHost,
  ShadowDirtyLog,
} from "../../src/engine/host.js";
import type { PositionedFile } from "../../src/engine/mapped-ram/positioned-file.js";
import { FormatError } from "../../src/errors/index.js";

const PAGE = 4096;
/** Segments of the first block, to have page runs that cross their border. */
const SEGMENT = 1 << 20;

/** A machine that is nothing but memory: its guest changes it whenever the event loop turns. */
export class FakeHost implements MigrationHost {
  readonly pageSize = PAGE;
  readonly machine: string;
  readonly ram: readonly Uint8Array[] = [new Uint8Array(SEGMENT), new Uint8Array(SEGMENT)];
  readonly video = new Uint8Array(16 * PAGE);
  /** What the guest does each time it may run; gets the number of the turn. */
  guest: (turn: number) => void = () => undefined;
  running = false;
  runCount = 0;
  turns = 0;
  /** The state of the only device. */
  device = new Uint8Array([1, 2, 3]);
  loads = 0;
  /** Calls in order, for tests that look at it. */
  readonly calls: string[] = [];

  constructor(machine = "fake") {
    this.machine = machine;
  }

  ramBlocks(): readonly HostRamBlock[] {
    return [
      { name: "pc.ram", usedLength: 2 * SEGMENT, segments: this.ram },
      { name: "vga.vram", usedLength: this.video.length, segments: [this.video] },
    ];
  }

  run(): Promise<void> {
    this.calls.push("run");
    if (!this.running) {
      this.running = true;
      this.runCount += 1;
      this.#tick();
    }
    return Promise.resolve();
  }

  stop(): Promise<void> {
    this.calls.push("stop");
    this.running = false;
    return Promise.resolve();
  }

  startDirtyLog(): ShadowDirtyLog {
    return new ShadowDirtyLog(() => this.ramBlocks(), PAGE);
  }

  saveDevices(): readonly DeviceState[] {
    const payload = this.device.slice();
    const fields = [{ name: "state", type: "buffer", size: payload.length }];
    return [{ name: "fake", instance: 0, version: 3, payload, fields }];
  }

  checkDevices(devices: readonly DeviceState[]): void {
    if (devices.length !== 1 || devices[0]?.version !== 3) {
      throw new FormatError("unsupported", "Not the devices of this machine");
    }
  }

  loadDevices(devices: readonly DeviceState[]): void {
    this.loads += 1;
    this.device = devices[0]!.payload.slice();
  }

  /** All memory, copied. */
  memory(): Buffer {
    return Buffer.concat([...this.ram, this.video]);
  }

  #tick(): void {
    if (!this.running) return;
    this.guest(this.turns++);
    setImmediate(() => this.#tick());
  }
}

/** A file in memory. */
export class MemoryFile implements PositionedFile {
  bytes = Buffer.alloc(0);

  get sizeBytes(): number {
    return this.bytes.length;
  }

  writeAt(bytes: Uint8Array, at: number, length: number, position: number): void {
    if (position + length > this.bytes.length) {
      this.bytes = Buffer.concat([this.bytes, Buffer.alloc(position + length - this.bytes.length)]);
    }
    this.bytes.set(bytes.subarray(at, at + length), position);
  }

  readAt(target: Uint8Array, position: number): number {
    return this.bytes.copy(target, 0, position, position + target.length);
  }

  zeroAt(position: number, length: number): void {
    this.bytes.fill(0, position, position + length);
  }
}
