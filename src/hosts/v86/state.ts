import { FormatError, MachineError } from "../../errors/index.js";
import { DETACHED_REGISTERS, type PciBar, type V86Cpu, type V86Machine } from "./internals.js";

/** Name of the one device section that holds the state of a v86. */
export const V86_SECTION = "v86";
/** `STATE_VERSION` of v86: the version of the section, and the only one whose entries are known here. */
export const V86_STATE_VERSION = 6;

/** A decoded state of v86. */
export interface V86State {
  /** Entry 0: bytes of guest RAM. */
  readonly memoryBytes: number;
  /** Devices that the machine had. */
  readonly devices: ReadonlySet<string>;
  /** Bytes of guest RAM inside the state: 0 in ours. */
  readonly packedBytes: number;
}

/** `STATE_MAGIC`, little-endian like all of v86's header. */
const STATE_MAGIC = 0x86768676;
const HEADER_BYTES = 16;
const PAGE_SIZE = 4096;
/** Entries of version 6 that hold the packed memory and the optional devices. */
const MEMORY_SIZE = 0;
const PACKED_MEMORY = 77;
const DEVICES: Readonly<Record<number, string>> = {
  45: "virtio_9p",
  50: "acpi",
  55: "floppy controller",
  59: "ne2k",
  61: "sb16",
  79: "uart1",
  80: "uart2",
  81: "uart3",
  82: "virtio_console",
  83: "virtio_net",
  84: "virtio_balloon",
  85: "ide",
  91: "parallel1",
};

/**
 * Saves the state of a stopped v86 without RAM and video memory: both are RAM blocks.
 *
 * What makes the state big is what v86 asks its own `pack_memory` for; for the length of the call the object has one of
 * its own that packs nothing. The result is a whole state in v86's format, of a machine whose memory is zero.
 *
 * @throws MachineError `not-capable` when this v86 puts its memory into the state all the same.
 */
export function saveStateWithoutMemory(machine: V86Machine): Uint8Array {
  const { cpu } = machine;
  const { vga } = cpu.devices;
  const videoMemory = vga.svga_memory;
  const bitmap = new ArrayBuffer(cpu.mem8.length / PAGE_SIZE / 8);
  cpu.pack_memory = () => ({ packed_memory: new Uint8Array(0), bitmap: { get_buffer: () => bitmap } });
  vga.svga_memory = new Uint8Array(0);
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(machine.save_state());
  } finally {
    // The prototype's own is behind it.
    Reflect.deleteProperty(cpu, "pack_memory");
    vga.svga_memory = videoMemory;
  }
  if (stateVersion(bytes) !== V86_STATE_VERSION || decodeState(bytes).packedBytes !== 0) {
    throw new MachineError("not-capable", "This v86 saves its state in another way than ramport knows", {
      expected: `state version ${V86_STATE_VERSION}`,
      actual: `state version ${stateVersion(bytes)}`,
    });
  }
  return bytes;
}

/**
 * Loads a state that {@link saveStateWithoutMemory} made; memory stays as it is. v86 throws away its translated code and
 * its TLB with it, so memory may have been written before.
 *
 * @throws FormatError `malformed` when v86 does not take it; the machine is then in pieces.
 */
export function restoreStateWithoutMemory(machine: V86Machine, bytes: Uint8Array): void {
  const { cpu } = machine;
  const registers = DETACHED_REGISTERS.map((name) => ({ name, view: cpu[name] }));
  cpu.unpack_memory = () => undefined;
  const emptyAgain = fillMissingBars(cpu);
  try {
    machine.restore_state(bytes.slice().buffer);
  } catch (cause) {
    throw new FormatError("malformed", "v86 does not take its state", { section: V86_SECTION }, cause);
  } finally {
    Reflect.deleteProperty(cpu, "unpack_memory");
    emptyAgain();
  }
  for (const { name, view } of registers) attachAgain(cpu, name, view);
}

/**
 * v86 0.5 does not take the state of a machine without a hard disk, its own neither: it moves every I/O region that the
 * saved PCI spaces name, and the IDE controller's has places for a channel that the controller lacks. Empty regions
 * stand there during the load.
 *
 * @returns A function that takes them away again.
 */
function fillMissingBars(cpu: V86Cpu): () => void {
  const filler: PciBar = { size: 0, original_bar: 0, entries: [] };
  const holes = cpu.devices.pci.devices.flatMap((device) => {
    const bars = device?.pci_bars ?? [];
    return [...bars.keys()].filter((index) => bars[index] === undefined).map((index) => ({ bars, index }));
  });
  for (const { bars, index } of holes) bars[index] = filler;
  return () => {
    for (const { bars, index } of holes) bars[index] = undefined;
  };
}

/**
 * v86 0.5 puts the saved values of these registers into arrays of their own, where the guest never looks, and saves them
 * from there again later. The values belong into the machine's memory.
 */
function attachAgain(
  cpu: V86Cpu,
  name: (typeof DETACHED_REGISTERS)[number],
  view: Int32Array | Uint16Array,
): void {
  const loaded = cpu[name];
  if (loaded === view) return;
  cpu[name] = view;
  view.set(loaded);
}

/**
 * Decodes as much of a state as it takes to know whether a machine can load it.
 *
 * @throws FormatError when the bytes are no whole state of version {@link V86_STATE_VERSION}.
 */
export function decodeState(bytes: Uint8Array): V86State {
  const place = { section: V86_SECTION };
  if (bytes.length < HEADER_BYTES) throw new FormatError("truncated", "The state of v86 is cut off", place);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== STATE_MAGIC) {
    throw new FormatError("malformed", "The section holds no state of v86", place);
  }
  checkVersion(stateVersion(bytes));
  const total = view.getUint32(8, true);
  const infoEnd = HEADER_BYTES + view.getUint32(12, true);
  if (total !== bytes.length || infoEnd > total) {
    throw new FormatError("truncated", "The state of v86 has another length than it says", {
      ...place,
      expected: total,
      actual: bytes.length,
    });
  }
  const info = parseInfo(bytes.subarray(HEADER_BYTES, infoEnd));
  const state: unknown = Reflect.get(info, "state");
  const buffers = bufferLengths(Reflect.get(info, "buffer_infos"), total - ((infoEnd + 3) & -4));
  if (!Array.isArray(state)) throw damaged();
  const entries: readonly unknown[] = state;
  const memoryBytes = entries[MEMORY_SIZE];
  const packed = entries[PACKED_MEMORY];
  const buffer: unknown = isObject(packed) ? Reflect.get(packed, "buffer_id") : undefined;
  const packedBytes = typeof buffer === "number" ? buffers[buffer] : undefined;
  if (typeof memoryBytes !== "number" || packedBytes === undefined) throw damaged();
  const devices = Object.entries(DEVICES).filter(([index]) => isObject(entries[Number(index)]));
  return { memoryBytes, packedBytes, devices: new Set(devices.map(([, name]) => name)) };
}

/** @throws FormatError `unsupported` for every version but {@link V86_STATE_VERSION}. */
export function checkVersion(version: number): void {
  if (version === V86_STATE_VERSION) return;
  throw new FormatError("unsupported", "The device state is of a v86 with another state format", {
    section: V86_SECTION,
    expected: `version ${V86_STATE_VERSION}`,
    actual: `version ${version}`,
    hint: "restore it with the v86 release that it was saved with",
  });
}

function stateVersion(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(4, true);
}

function parseInfo(bytes: Uint8Array): object {
  let info: unknown;
  try {
    info = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw damaged(cause);
  }
  if (!isObject(info)) throw damaged();
  return info;
}

/** Lengths of the state's buffers, all of which must lie in `room` bytes. */
function bufferLengths(infos: unknown, room: number): number[] {
  if (!Array.isArray(infos)) throw damaged();
  return infos.map((info: unknown) => {
    const offset: unknown = isObject(info) ? Reflect.get(info, "offset") : undefined;
    const length: unknown = isObject(info) ? Reflect.get(info, "length") : undefined;
    if (typeof offset !== "number" || typeof length !== "number") throw damaged();
    if (offset < 0 || length < 0 || offset + length > room) throw damaged();
    return length;
  });
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

function damaged(cause?: unknown): FormatError {
  return new FormatError("malformed", "The state of v86 is damaged", { section: V86_SECTION }, cause);
}
