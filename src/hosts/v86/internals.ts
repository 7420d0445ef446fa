/**
 * What ramport uses of v86 beyond its published types, and nothing else. These names belong to v86's own modules and
 * survive its minifier; {@link internalsOf} looks whether they are there, so that another v86 is refused instead of
 * misunderstood.
 *
 * @module
 */

import type { V86 } from "v86";

import { MachineError, UsageError } from "../../errors/index.js";
import type { TimeStampCounter } from "./time-stamp-counter.js";

/** `CPU.pack_memory`'s result: pages with content one after the other, and a bitmap of which these are. */
export interface PackedMemory {
  readonly packed_memory: Uint8Array;
  readonly bitmap: { get_buffer(): ArrayBuffer };
}

/** Registers of v86 that its `set_state` replaces by detached copies instead of writing to them. */
export const DETACHED_REGISTERS = ["last_result", "fpu_status_word", "mxcsr"] as const;

type Registers = Record<(typeof DETACHED_REGISTERS)[number], Int32Array | Uint16Array>;

/** A region of I/O ports or memory of a PCI device. */
export interface PciBar {
  readonly size: number;
  readonly original_bar?: number;
  readonly entries?: readonly unknown[];
}

/** A serial port; what it is sent waits in `input` until the guest reads it. */
export interface V86Uart {
  readonly input: number[];
}

/** The power management function of v86's chip set (PIIX4). */
export interface V86Acpi {
  /** PM1_CNT. */
  status: number;
  /** PM1_STS. */
  pm1_status: number;
}

/** What a sleeping machine's processor is woken by. */
export interface V86Processor {
  /** 1 while it waits for an interrupt. */
  readonly in_hlt: Uint8Array;
  /** Linear address of the next instruction. */
  readonly instruction_pointer: Int32Array;
  /** Selectors; {@link segment_offsets} has where the segments begin. */
  readonly sreg: Uint16Array;
  readonly segment_offsets: Int32Array;
  /** Puts the processor into the state that it has when it is switched on. */
  reset_cpu(): void;
  /** To be called after segments were changed from outside. */
  update_state_flags(): void;
}

/** v86's I/O ports. */
export interface V86Ports {
  /** Replaces what a port does with the widths that are given; `device` is their `this`. */
  register_write(
    port: number,
    device: object,
    write8: ((value: number) => void) | undefined,
    write16: ((value: number) => void) | undefined,
  ): void;
}

/** v86's `CPU`. */
export interface V86Cpu extends Registers, TimeStampCounter, V86Processor {
  /**
   * Guest RAM. In Node a Proxy that makes a new view for each access, because the memory behind it moves when it grows:
   * `subarray` gives a real array, good until then.
   */
  readonly mem8: Uint8Array;
  readonly io: V86Ports;
  readonly devices: {
    /** In machines with v86's option `acpi`. */
    readonly acpi?: V86Acpi;
    readonly uart0?: V86Uart;
    readonly uart1?: V86Uart;
    readonly uart2?: V86Uart;
    readonly uart3?: V86Uart;
    /** Memory of the video card, a Proxy like `mem8`. */
    readonly vga: { svga_memory: Uint8Array };
    /** By PCI id; a device lacks those of its bars that it has no use for. */
    readonly pci: {
      readonly devices: readonly ({ readonly pci_bars: (PciBar | undefined)[] } | undefined)[];
    };
  };
  /** Images that start the machine; `main` is undefined where a Multiboot image is started without. */
  readonly bios: { readonly main?: ArrayBuffer };
  /** The WebAssembly memory that all of the above are views of. */
  readonly wasm_memory: { readonly buffer: ArrayBufferLike };
  /** Runs the guest for about a millisecond; returns for how many it has nothing to do. */
  main_loop: () => number;
  /** Called by `get_state`. */
  pack_memory(): PackedMemory;
  /** Called by `set_state`: clears all memory, then puts the packed pages back. */
  unpack_memory(bitmap: unknown, packed: Uint8Array): void;
}

/** v86's inner machine, `emulator.v86`: synchronous where the outer one is not. */
export interface V86Machine {
  readonly cpu: V86Cpu;
  /** Plans the next turn of the main loop, in so many milliseconds; an earlier plan is void. */
  next_tick(delayMs: number): void;
  /** How a planned turn is waited for. */
  yield(delayMs: number, tick: number): void;
  save_state(): ArrayBuffer;
  /** Throws an error of its own for a state it does not like, maybe after having loaded a part of it. */
  restore_state(state: ArrayBuffer): void;
}

/** The four serial ports in their order; undefined stands for one that the machine lacks. */
export function uartsOf({ devices }: V86Cpu): readonly (V86Uart | undefined)[] {
  const { uart0, uart1, uart2, uart3 } = devices;
  return [uart0, uart1, uart2, uart3];
}

/**
 * The machine inside an emulator.
 *
 * @throws UsageError when the emulator is not loaded yet; MachineError `not-capable` when this v86 looks different inside.
 */
export function internalsOf(emulator: V86): V86Machine {
  const { v86 } = emulator as unknown as { readonly v86?: Partial<V86Machine> };
  const cpu: Partial<V86Cpu> | undefined = v86?.cpu;
  if (v86 === undefined || cpu?.mem8 === undefined) {
    throw new UsageError("The v86 emulator is not loaded yet", {
      hint: "wait for its emulator-loaded event",
    });
  }
  const found: Record<string, boolean> = {
    save_state: typeof v86.save_state === "function",
    restore_state: typeof v86.restore_state === "function",
    next_tick: typeof v86.next_tick === "function",
    yield: typeof v86.yield === "function",
    main_loop: typeof cpu.main_loop === "function",
    wasm_memory: cpu.wasm_memory?.buffer !== undefined,
    pack_memory: typeof cpu.pack_memory === "function",
    unpack_memory: typeof cpu.unpack_memory === "function",
    set_tsc: typeof cpu.set_tsc === "function",
    store_current_tsc: typeof cpu.store_current_tsc === "function",
    reset_cpu: typeof cpu.reset_cpu === "function",
    update_state_flags: typeof cpu.update_state_flags === "function",
    in_hlt: cpu.in_hlt !== undefined,
    instruction_pointer: cpu.instruction_pointer !== undefined,
    sreg: cpu.sreg !== undefined,
    segment_offsets: cpu.segment_offsets !== undefined,
    "io.register_write": typeof cpu.io?.register_write === "function",
    "uart0.input": Array.isArray(cpu.devices?.uart0?.input),
    "vga.svga_memory": cpu.devices?.vga.svga_memory !== undefined,
    "pci.devices": Array.isArray(cpu.devices?.pci.devices),
  };
  for (const name of DETACHED_REGISTERS) found[name] = cpu[name] !== undefined;
  const missing = Object.keys(found).filter((name) => found[name] !== true);
  if (missing.length > 0) {
    throw new MachineError(
      "not-capable",
      `This v86 is built in another way: it has no ${missing.join(", ")}`,
    );
  }
  return v86 as V86Machine;
}
