import { HashDirtyLog } from "../../src/engine/dirty-log/hash-dirty-log.js";
import { MarkedDirtyLog } from "../../src/engine/dirty-log/marked-dirty-log.js";
import type { DeviceState, DirtyLog, HostRamBlock, MigrationHost } from "../../src/engine/host.js";
import { ShadowDirtyLog } from "../../src/engine/host.js";
import { FormatError } from "../../src/errors/index.js";
import type { VirtualClock } from "./virtual-clock.js";

/** One RAM block of a simulated machine. */
export interface SimBlock {
  readonly name: string;
  readonly pages: number;
  /** Pages of each segment, in turn; the last one has what is left. */
  readonly segmentPages: number;
  readonly shared: boolean;
  readonly guestAddress: bigint;
}

/** What a simulated machine is made of. */
export interface SimMachine {
  readonly pageSize: number;
  readonly blocks: readonly SimBlock[];
  readonly dirtyLog: "shadow" | "marked" | "hash";
  readonly uuid?: Uint8Array;
  readonly deviceVersion: number;
  /** How long the guest runs on when it is told to stop, and takes to begin. */
  readonly stopMs: number;
  readonly runMs: number;
}

/** Everything that a guest is: what must be the same on both sides in the end. */
export interface GuestState {
  readonly memory: readonly Uint8Array[];
  readonly devices: readonly Uint8Array[];
}

const MACHINE = "simulated";

/**
 * A machine of the simulation. Its guest writes through {@link write} only, which keeps a second copy of all memory, so
 * that a byte that somebody else changed is found.
 */
export class SimHost implements MigrationHost {
  readonly machine = MACHINE;
  readonly pageSize: number;
  readonly uuid?: Uint8Array;
  running = false;
  runCount = 0;
  throttledPercent = 0;
  /** Logs that were started and not stopped. */
  logsRunning = 0;
  /** Whether somebody waits for the guest to stop. */
  stopping = false;
  /** State of each device. */
  devices: Uint8Array[];
  loads = 0;
  /** The state as it was handed out by {@link saveDevices} last. */
  saved: GuestState | undefined;
  readonly #clock: VirtualClock;
  readonly #spec: SimMachine;
  readonly #lengths: number[];
  #segments: Uint8Array[][];
  #marked: MarkedDirtyLog | undefined;
  /** What the guest wrote, by itself. */
  readonly model: Uint8Array[];

  constructor(spec: SimMachine, clock: VirtualClock, devices: readonly Uint8Array[]) {
    this.#spec = spec;
    this.#clock = clock;
    this.pageSize = spec.pageSize;
    if (spec.uuid !== undefined) this.uuid = spec.uuid;
    this.#lengths = spec.blocks.map(({ pages }) => pages * spec.pageSize);
    this.#segments = spec.blocks.map(({ pages, segmentPages }) => {
      const segments: Uint8Array[] = [];
      for (let page = 0; page < pages; page += segmentPages) {
        segments.push(new Uint8Array(Math.min(segmentPages, pages - page) * spec.pageSize));
      }
      return segments;
    });
    this.model = this.#lengths.map((length) => new Uint8Array(length));
    this.devices = devices.map((device) => device.slice());
  }

  ramBlocks(): readonly HostRamBlock[] {
    return this.#spec.blocks.map(({ name, shared, guestAddress }, index) => ({
      name,
      usedLength: this.#lengths[index]!,
      shared,
      guestAddress,
      // Segments of less than the 1 MiB that hosts have: what counts is that they divide no page.
      segments: this.#segments[index]!,
    }));
  }

  run(): Promise<void> {
    if (!this.running) {
      this.running = true;
      this.runCount += 1;
      this.#clock.note(() => `guest runs (${this.runCount})`);
    }
    return this.#clock.sleep(this.#spec.runMs);
  }

  async stop(): Promise<void> {
    if (!this.running) return;
    this.stopping = true;
    await this.#clock.sleep(this.#spec.stopMs);
    this.stopping = false;
    this.running = false;
    this.#clock.note(() => "guest stops");
  }

  /** The user stops the guest, at once. */
  halt(): void {
    this.running = false;
  }

  startDirtyLog(): DirtyLog {
    const log = this.#newLog();
    if (log instanceof MarkedDirtyLog) this.#marked = log;
    this.logsRunning += 1;
    let running = true;
    return {
      sync: (dirty, breathe) => {
        this.#clock.note(() => "dirty log: sync");
        return log.sync(dirty, breathe);
      },
      take: (block, run, use) => log.take(block, run, use),
      stop: () => {
        log.stop();
        if (running) this.logsRunning -= 1;
        running = false;
      },
    };
  }

  throttle(percent: number): void {
    this.#clock.note(() => `throttle ${percent} %`);
    this.throttledPercent = percent;
  }

  saveDevices(): readonly DeviceState[] {
    if (this.running) throw new Error("simulation: devices are saved while the guest runs");
    this.saved = this.state();
    return this.devices.map((payload, instance) => ({
      name: instance < 2 ? "sim-device" : `sim-device-${instance}`,
      instance,
      version: this.#spec.deviceVersion,
      payload: payload.slice(),
      fields: fieldsOf(payload.length),
    }));
  }

  checkDevices(devices: readonly DeviceState[]): void {
    const names = devices.map(({ name, instance }) => `${name}/${instance}`).join();
    const expected = this.devices
      .map((_, instance) => (instance < 2 ? "sim-device" : `sim-device-${instance}`) + `/${instance}`)
      .join();
    if (names !== expected)
      throw new FormatError("unsupported", "Other devices", { expected, actual: names });
    if (devices.every(({ version }) => version === this.#spec.deviceVersion)) return;
    throw new FormatError("unsupported", "A device of another version");
  }

  loadDevices(devices: readonly DeviceState[]): void {
    if (this.running) throw new Error("simulation: devices are loaded while the guest runs");
    this.loads += 1;
    this.devices = devices.map(({ payload }) => payload.slice());
  }

  /** The guest writes, where its block has so much. */
  write(block: number, address: number, bytes: Uint8Array): void {
    if (address + bytes.length > this.#lengths[block]!) return;
    this.#poke(block, address, bytes);
    this.model[block]!.set(bytes, address);
    this.#marked?.mark(block, address, bytes.length);
  }

  /** Content that was there before the simulation begins, and that the guest did not write. */
  fill(block: number, address: number, bytes: Uint8Array): void {
    this.#poke(block, address, bytes);
    this.model[block]!.set(bytes, address);
  }

  /** Makes a block shorter by a page, as the firmware's reset does with one whose contents come from a file. */
  shrink(block: number): void {
    this.#lengths[block] = this.#lengths[block]! - this.pageSize;
    const segments = this.#segments[block]!;
    const last = segments.pop()!;
    if (last.length > this.pageSize) segments.push(last.subarray(0, last.length - this.pageSize));
    this.model[block] = this.model[block]!.subarray(0, this.#lengths[block]);
    this.#clock.note(() => `block ${block} shrinks to ${this.#lengths[block]} bytes`);
  }

  /** Moves all memory, as a growing WebAssembly.Memory does: views of it from before are of no use. */
  move(): void {
    this.#segments = this.#segments.map((segments) =>
      segments.map((segment) =>
        segment.length === segment.buffer.byteLength
          ? structuredClone(segment, { transfer: [segment.buffer as ArrayBuffer] })
          : segment.slice(),
      ),
    );
  }

  /** All memory and device state, copied. */
  state(): GuestState {
    return {
      memory: this.#segments.map((segments) => Buffer.concat(segments)),
      devices: this.devices.map((device) => device.slice()),
    };
  }

  #newLog(): ShadowDirtyLog | MarkedDirtyLog | HashDirtyLog {
    const blocks = (): readonly HostRamBlock[] => this.ramBlocks();
    switch (this.#spec.dirtyLog) {
      case "shadow":
        return new ShadowDirtyLog(blocks, this.pageSize);
      case "marked":
        return new MarkedDirtyLog(blocks, this.pageSize);
      case "hash":
        return new HashDirtyLog(blocks, this.pageSize);
    }
  }

  #poke(block: number, address: number, bytes: Uint8Array): void {
    let at = address;
    let from = 0;
    for (const segment of this.#segments[block]!) {
      if (at < segment.length && from < bytes.length) {
        const count = Math.min(segment.length - at, bytes.length - from);
        segment.set(bytes.subarray(from, from + count), at);
        from += count;
        at = 0;
      } else at -= segment.length;
    }
  }
}

/** Says where two guests differ first; undefined when they do not. */
export function differenceOf(
  a: GuestState,
  b: GuestState,
  left: readonly boolean[] = [],
): string | undefined {
  for (const [block, memory] of a.memory.entries()) {
    if (left[block] === true) continue;
    const other = b.memory[block]!;
    if (Buffer.compare(memory, other) === 0) continue;
    const at = memory.findIndex((byte, index) => byte !== other[index]);
    return `block ${block} at 0x${at.toString(16)}: ${memory[at]} and ${other[at]}`;
  }
  for (const [device, payload] of a.devices.entries()) {
    if (Buffer.compare(payload, b.devices[device] ?? new Uint8Array()) !== 0) return `device ${device}`;
  }
  return a.devices.length === b.devices.length ? undefined : "number of devices";
}

function fieldsOf(length: number): DeviceState["fields"] {
  const head = Math.min(4, length);
  return [
    { name: "counter", type: "buffer", size: head },
    ...(length > head ? [{ name: "rest", type: "buffer", size: length - head }] : []),
  ];
}
