import { createRequire } from "node:module";

import type { V86, V86Options } from "v86";

import {
  type DeviceState,
  type DirtyLog,
  type HostRamBlock,
  type MigrationHost,
  ShadowDirtyLog,
} from "../../engine/host.js";
import type { PostcopyHost } from "../../engine/postcopy/postcopy-host.js";
import { HashDirtyLog } from "../../engine/dirty-log/hash-dirty-log.js";
import { assert, MachineError, UsageError } from "../../errors/index.js";
import { adviseHugePages } from "../huge-pages.js";
import { ThreadedPostcopy } from "../userfaultfd/threaded-postcopy.js";
import { AcpiSleep } from "./acpi-sleep.js";
import { DutyCycle } from "./duty-cycle.js";
import { internalsOf, uartsOf, type V86Machine } from "./internals.js";
import { SharedMemory, type SharedMemoryOptions } from "./shared-memory.js";
import { memoryRegions } from "./memory-regions.js";
import { clearTscOffset } from "./time-stamp-counter.js";
import { readSections, restoreTree, saveSections } from "./state.js";

/** What a machine is besides its emulator. */
export interface V86AttachOptions {
  /** How changed pages are found: by a copy of all memory (the default), or by 16 bytes a page, which takes longer. */
  readonly dirtyLog?: "shadow" | "hash";
  /** 16 bytes: with `validate-uuid` a migration from another machine is refused. */
  readonly uuid?: Uint8Array;
}

/** Options of {@link V86Host.create}. */
export interface V86HostOptions extends V86AttachOptions {
  /** Bytes of RAM: a multiple of 128 KiB, at least 1 MiB. */
  readonly memoryBytes: number;
  /** Bytes of video memory; default 1 MiB. */
  readonly videoMemoryBytes?: number;
  /** A Multiboot image that is started without any BIOS. */
  readonly multiboot?: Uint8Array;
  /** A file that is the guest's RAM, for `x-ignore-shared`. Linux, with the optional package `koffi`. */
  readonly sharedMemory?: SharedMemoryOptions;
  /** More of v86's own options: disks, a BIOS, network. A machine is restored with those that it was saved with. */
  readonly v86?: V86Options;
}

const DEFAULT_VIDEO_MEMORY = 1 << 20;
/** v86 rounds everything else: a machine would be of another size than it was asked for. */
const MEMORY_UNIT = 128 << 10;
const LEAST_MEMORY = 1 << 20;
const INITRD_ADDRESS = 64 << 20;
const MOST_MEMORY = 2 ** 31 - MEMORY_UNIT;
/** Serial ports that v86 can have. */
export const SERIAL_PORTS = 4;

/** A v86 emulator in this process, as a machine that can be saved and restored. */
export class V86Host implements MigrationHost {
  readonly machine = "v86";
  readonly pageSize = 4096;
  readonly uuid?: Uint8Array;
  /** The emulator itself. */
  readonly emulator: V86;
  /**
   * Runs the guest while pages are missing: on Linux, with the optional package `koffi` and userfaultfd. A page that it
   * touches blocks this whole thread, until another one has placed it.
   */
  readonly postcopy: PostcopyHost;
  readonly #machine: V86Machine;
  readonly #threadedPostcopy: ThreadedPostcopy;
  readonly #dutyCycle: DutyCycle;
  readonly #dirtyLog: "shadow" | "hash";
  readonly #sharedMemory: SharedMemory | undefined;
  /** In machines with v86's option `acpi`. */
  readonly #acpiSleep: AcpiSleep | undefined;
  readonly #sleepListeners = new Set<() => void>();
  #isAsleep = false;
  /** Pages that the guest might touch cannot come. */
  #isHeld = false;
  #runCount = 0;
  #stopping: Promise<void> | undefined;
  /** Why the guest must not run: pages of it will never come. */
  #lost: Error | undefined;

  private constructor(emulator: V86, options: V86AttachOptions, sharedMemory?: SharedMemoryOptions) {
    this.emulator = emulator;
    this.#machine = internalsOf(emulator);
    this.#dutyCycle = new DutyCycle(this.#machine);
    const { acpi } = this.#machine.cpu.devices;
    this.#acpiSleep =
      acpi === undefined ? undefined : new AcpiSleep(this.#machine, acpi, () => this.#fallAsleep());
    if (options.uuid !== undefined) this.uuid = options.uuid;
    this.#dirtyLog = options.dirtyLog ?? "shadow";
    this.#sharedMemory =
      sharedMemory === undefined ? undefined : SharedMemory.map(this.#machine.cpu, sharedMemory);
    this.#threadedPostcopy = new ThreadedPostcopy({
      hostPageSizes: this.ramBlocks().map(() => this.pageSize),
      regions: () => memoryRegions(this.#machine.cpu, this.ramBlocks()),
      hold: (held) => this.#hold(held),
      lose: (error) => this.#lose(error),
    });
    this.postcopy = this.#threadedPostcopy;
    // A file's memory is the file system's to arrange.
    if (sharedMemory === undefined) adviseHugePages(this.#machine.cpu.mem8.subarray(0));
  }

  /**
   * Takes an emulator that the caller made and loaded (`emulator-loaded`).
   *
   * @throws UsageError when it is not loaded; MachineError `not-capable` when this v86 is none that ramport knows.
   */
  static attach(emulator: V86, options: V86AttachOptions = {}): V86Host {
    return new V86Host(emulator, options);
  }

  /**
   * Makes an emulator without screen, keyboard and network. It stands still until {@link run}.
   *
   * @throws UsageError for a memory size that v86 cannot have; MachineError `not-capable` when the package v86 is not
   *   installed or is none that ramport knows, or when its memory cannot be shared.
   */
  static async create(options: V86HostOptions): Promise<V86Host> {
    checkMemorySize(options);
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
      // A network card stays the one that the guest knows.
      preserve_mac_from_state_image: true,
      ...options.v86,
      autostart: false,
    });
    await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()));
    try {
      return new V86Host(emulator, options, options.sharedMemory);
    } catch (error) {
      await emulator.destroy();
      throw error;
    }
  }

  get running(): boolean {
    return this.emulator.is_running();
  }

  get runCount(): number {
    return this.#runCount;
  }

  ramBlocks(): readonly HostRamBlock[] {
    this.#sharedMemory?.check();
    const { mem8, devices } = this.#machine.cpu;
    const ram = block("pc.ram", mem8);
    return [
      this.#sharedMemory === undefined ? ram : { ...ram, shared: true },
      block("vga.vram", devices.vga.svga_memory),
    ];
  }

  /** @throws MachineError when a migration failed for good after the guest had begun to run here. */
  async run(): Promise<void> {
    if (this.#lost !== undefined) throw this.#lost;
    // An emulator that is told to run while it stops never says that it stopped.
    await this.#stopping;
    if (this.running) return;
    void this.#threadedPostcopy.unprepare();
    this.#runCount++;
    await this.emulator.run();
  }

  async stop(): Promise<void> {
    if (!this.running) return;
    this.#stopping ??= this.#stopEmulator();
    await this.#stopping;
  }

  async #stopEmulator(): Promise<void> {
    const stopped = this.emulator.stop();
    // It would look only after the time that an idle guest, or a throttled one, waits for.
    this.#dutyCycle.wake();
    await stopped;
    this.#stopping = undefined;
  }

  /** In machines with v86's option `acpi`: whether the guest is in the sleep state S3. */
  get suspended(): boolean | undefined {
    return this.#acpiSleep === undefined ? undefined : this.#isAsleep;
  }

  set suspended(suspended: boolean | undefined) {
    this.#isAsleep = this.#acpiSleep !== undefined && suspended === true;
    this.#holdOrLetGo();
  }

  /**
   * Wakes a guest that sleeps: it goes on at the waking vector that it left in its ACPI tables (FACS), with its memory.
   *
   * @throws What the guest was lost by, if it was; UsageError when it does not sleep; MachineError `not-capable` when there is no such vector, or when memory that
   *   is missing cannot come at present. It then sleeps on.
   */
  wake(): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#acpiSleep === undefined || !this.#isAsleep) throw new UsageError("The guest does not sleep");
    if (this.#isHeld) {
      throw new MachineError("not-capable", "The guest cannot be woken while its memory cannot come", {
        hint: "recover its migration first",
      });
    }
    this.#acpiSleep.wake();
    this.suspended = false;
  }

  /**
   * Hears when the guest goes to sleep, in the middle of its turn.
   *
   * @returns A function that ends it.
   */
  onSuspend(listener: () => void): () => void {
    this.#sleepListeners.add(listener);
    return () => this.#sleepListeners.delete(listener);
  }

  throttle(percent: number): void {
    this.#dutyCycle.set(percent);
    if (this.running) this.#dutyCycle.wake();
  }

  /**
   * Starts the machine again as if it was switched off and on; memory stays.
   *
   * @throws MachineError `not-capable` when it has no BIOS that could start it.
   */
  reset(): void {
    if (this.#machine.cpu.bios.main === undefined) {
      throw new MachineError(
        "not-capable",
        "This machine cannot be reset: it has no BIOS that starts it again",
      );
    }
    clearTscOffset(this.#machine.cpu);
    this.emulator.restart();
    this.suspended = false;
  }

  /** v86 cannot say what its guest writes to, so pages are compared; {@link ShadowDirtyLog} says what that costs. */
  startDirtyLog(): DirtyLog {
    const Log = this.#dirtyLog === "hash" ? HashDirtyLog : ShadowDirtyLog;
    return new Log(() => this.ramBlocks(), this.pageSize);
  }

  saveDevices(): readonly DeviceState[] {
    assert(!this.running, "devices of a running v86");
    return saveSections(this.#machine);
  }

  checkDevices(devices: readonly DeviceState[]): void {
    readSections(this.#machine, devices);
  }

  loadDevices(devices: readonly DeviceState[]): void {
    assert(!this.running, "devices of a running v86");
    restoreTree(this.#machine, readSections(this.#machine, devices));
  }

  /**
   * Hears a serial port, the first one unless another is asked for.
   *
   * @param listener Gets one character at a time.
   * @returns A function that ends it.
   */
  onSerial(listener: (text: string) => void, port = 0): () => void {
    return this.onSerialByte((byte) => listener(String.fromCharCode(byte)), port);
  }

  /** Like {@link onSerial}, with bytes. */
  onSerialByte(listener: (byte: number) => void, port = 0): () => void {
    const event = SERIAL_OUTPUT[port];
    assert(event !== undefined, `no serial port ${port}`);
    this.emulator.add_listener(event, listener);
    return () => this.emulator.remove_listener(event, listener);
  }

  /** Types into the first serial port. */
  sendSerial(text: string): void {
    this.emulator.serial0_send(text);
  }

  /** Sends bytes into a serial port. */
  sendSerialBytes(bytes: Uint8Array, port = 0): void {
    this.emulator.serial_send_bytes(port, bytes);
  }

  /** How many bytes a serial port was sent that the guest has not read yet: there is no bound but the sender's. */
  serialBacklog(port = 0): number {
    return uartsOf(this.#machine.cpu)[port]?.input.length ?? 0;
  }

  /** Stops the guest and gives the emulator's resources back. */
  async destroy(): Promise<void> {
    // A guest that sleeps, or is held, is looked after only once in a while.
    await this.stop();
    await this.emulator.destroy();
    await this.#threadedPostcopy.close();
  }

  /** While its pages cannot come, the guest would only block this thread. */
  #hold(held: boolean): void {
    this.#isHeld = held;
    this.#holdOrLetGo();
  }

  #fallAsleep(): void {
    this.suspended = true;
    for (const listener of this.#sleepListeners) listener();
  }

  #holdOrLetGo(): void {
    const held = this.#isHeld || this.#isAsleep;
    this.#dutyCycle.hold(held);
    if (!held && this.running) this.#dutyCycle.wake();
  }

  async #lose(error: Error): Promise<void> {
    this.#lost = error;
    await this.stop();
  }
}

const SERIAL_OUTPUT = [
  "serial0-output-byte",
  "serial1-output-byte",
  "serial2-output-byte",
  "serial3-output-byte",
] as const;

function checkMemorySize({ memoryBytes, multiboot, v86 }: V86HostOptions): void {
  const initrd = v86?.initrd;
  let least = LEAST_MEMORY;
  if (initrd !== undefined) {
    // Linux's is put there; behind a Multiboot image it is somewhere before.
    const size = multiboot === undefined && "buffer" in initrd ? initrd.buffer.byteLength : 0;
    least = INITRD_ADDRESS + Math.ceil(size / MEMORY_UNIT) * MEMORY_UNIT;
  }
  if (memoryBytes % MEMORY_UNIT === 0 && memoryBytes >= least && memoryBytes <= MOST_MEMORY) return;
  throw new UsageError("A v86 cannot have this much memory", {
    expected: `a multiple of ${MEMORY_UNIT >> 10} KiB from ${least >> 10} KiB to 2047 MiB`,
    actual: `${memoryBytes} bytes`,
    ...(initrd === undefined ? {} : { hint: "v86 puts an initial RAM disk behind the first 64 MiB" }),
  });
}

function block(name: string, view: Uint8Array): HostRamBlock {
  return { name, usedLength: view.length, segments: [view.subarray(0)] };
}

async function importV86(): Promise<typeof import("v86")> {
  try {
    return await import("v86");
  } catch (cause) {
    const hint = "install it beside ramport: npm install v86";
    throw new MachineError("not-capable", "The package v86 is not installed", { hint }, cause);
  }
}
