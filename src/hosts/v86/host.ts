import { createRequire } from "node:module";

import type { V86, V86Options } from "v86";

import {
  type DeviceState,
  type DirtyLog,
  type HostRamBlock,
  type MigrationHost,
  ShadowDirtyLog,
} from "../../engine/host.js";
import { assert, FormatError, MachineError } from "../../errors/index.js";
import { internalsOf, type V86Machine } from "./internals.js";
import {
  checkVersion,
  decodeState,
  restoreStateWithoutMemory,
  saveStateWithoutMemory,
  V86_SECTION,
  V86_STATE_VERSION,
} from "./state.js";

/** Options of {@link V86Host.create}. */
export interface V86HostOptions {
  /** Bytes of RAM: a multiple of 128 KiB, at least 1 MiB. */
  readonly memoryBytes: number;
  /** Bytes of video memory; default 1 MiB. */
  readonly videoMemoryBytes?: number;
  /** A Multiboot image that is started without any BIOS. */
  readonly multiboot?: Uint8Array;
  /** More of v86's own options: disks, a BIOS, network. A machine is restored with those that it was saved with. */
  readonly v86?: V86Options;
}

const DEFAULT_VIDEO_MEMORY = 1 << 20;

/** A v86 emulator in this process, as a machine that can be saved and restored. */
export class V86Host implements MigrationHost {
  readonly machine = "v86";
  readonly pageSize = 4096;
  /** The emulator itself. */
  readonly emulator: V86;
  readonly #machine: V86Machine;

  private constructor(emulator: V86, machine: V86Machine) {
    this.emulator = emulator;
    this.#machine = machine;
  }

  /**
   * Takes an emulator that the caller made and loaded (`emulator-loaded`).
   *
   * @throws UsageError when it is not loaded; MachineError `not-capable` when this v86 is none that ramport knows.
   */
  static attach(emulator: V86): V86Host {
    return new V86Host(emulator, internalsOf(emulator));
  }

  /**
   * Makes an emulator without screen, keyboard and network. It stands still until {@link run}.
   *
   * @throws MachineError `not-capable` when the package v86 is not installed or is none that ramport knows.
   */
  static async create(options: V86HostOptions): Promise<V86Host> {
    const { V86: Emulator } = await importV86();
    const { multiboot } = options;
    const emulator = new Emulator({
      wasm_path: createRequire(import.meta.url).resolve("v86/build/v86.wasm"),
      memory_size: options.memoryBytes,
      vga_memory_size: options.videoMemoryBytes ?? DEFAULT_VIDEO_MEMORY,
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      // v86 makes a network card unless it is told of a kind that it does not have.
      net_device: { type: "none" as "ne2k" },
      ...(multiboot === undefined ? {} : { multiboot: { buffer: multiboot.slice().buffer } }),
      ...options.v86,
      autostart: false,
    });
    await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()));
    return V86Host.attach(emulator);
  }

  get running(): boolean {
    return this.emulator.is_running();
  }

  ramBlocks(): readonly HostRamBlock[] {
    const { mem8, devices } = this.#machine.cpu;
    return [block("pc.ram", mem8), block("vga.vram", devices.vga.svga_memory)];
  }

  run(): Promise<void> {
    return this.emulator.run();
  }

  stop(): Promise<void> {
    return this.emulator.stop();
  }

  /** v86 cannot say what its guest writes to, so pages are compared; see {@link ShadowDirtyLog} for what that costs. */
  startDirtyLog(): DirtyLog {
    return new ShadowDirtyLog(() => this.ramBlocks(), this.pageSize);
  }

  saveDevices(): readonly DeviceState[] {
    assert(!this.running, "devices of a running v86");
    const payload = saveStateWithoutMemory(this.#machine);
    const fields = [{ name: "state", type: "buffer", size: payload.length }];
    return [{ name: V86_SECTION, instance: 0, version: V86_STATE_VERSION, payload, fields }];
  }

  checkDevices(devices: readonly DeviceState[]): void {
    const state = decodeState(onlySection(devices).payload);
    if (state.memoryBytes !== this.#machine.cpu.mem8.length || state.packedBytes !== 0) {
      throw new FormatError("inconsistent", "The device state is of a v86 with other memory", {
        section: V86_SECTION,
        expected: this.#machine.cpu.mem8.length,
        actual: state.memoryBytes,
      });
    }
    const own = decodeState(saveStateWithoutMemory(this.#machine)).devices;
    if (own.size === state.devices.size && [...own].every((name) => state.devices.has(name))) return;
    throw new FormatError("inconsistent", "The file is of a v86 with other devices", {
      section: V86_SECTION,
      expected: [...own].join(", "),
      actual: [...state.devices].join(", "),
      hint: "create the machine with the options that it was saved with",
    });
  }

  loadDevices(devices: readonly DeviceState[]): void {
    assert(!this.running, "devices of a running v86");
    restoreStateWithoutMemory(this.#machine, onlySection(devices).payload);
  }

  /**
   * Hears the first serial port.
   *
   * @param listener Gets one character at a time.
   * @returns A function that ends it.
   */
  onSerial(listener: (text: string) => void): () => void {
    const hear = (byte: number): void => listener(String.fromCharCode(byte));
    this.emulator.add_listener("serial0-output-byte", hear);
    return () => this.emulator.remove_listener("serial0-output-byte", hear);
  }

  /** Types into the first serial port. */
  sendSerial(text: string): void {
    this.emulator.serial0_send(text);
  }

  /** Stops the guest and gives the emulator's resources back. */
  destroy(): Promise<void> {
    return this.emulator.destroy();
  }
}

function block(name: string, view: Uint8Array): HostRamBlock {
  return { name, usedLength: view.length, segments: [view.subarray(0)] };
}

function onlySection(devices: readonly DeviceState[]): DeviceState {
  const [device, second] = devices;
  if (device?.name !== V86_SECTION || device.instance !== 0 || second !== undefined) {
    throw new FormatError("inconsistent", "The file has other device sections than a v86", {
      expected: V86_SECTION,
      actual: devices.map(({ name }) => name).join(", "),
    });
  }
  checkVersion(device.version);
  return device;
}

async function importV86(): Promise<typeof import("v86")> {
  try {
    return await import("v86");
  } catch (cause) {
    const hint = "install it beside ramport: npm install v86";
    throw new MachineError("not-capable", "The package v86 is not installed", { hint }, cause);
  }
}
