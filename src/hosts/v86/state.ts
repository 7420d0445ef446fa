import type { DeviceState } from "../../engine/host.js";
import { FormatError, MachineError } from "../../errors/index.js";
import { DETACHED_REGISTERS, type PciBar, uartsOf, type V86Cpu, type V86Machine } from "./internals.js";
import { decodePayload, encodePayload } from "./state-payload.js";
import { CPU_NAMES, DEVICE_NAMES, type EntryNames } from "./state-names.js";
import {
  buildState,
  checkVersion,
  damaged,
  isList,
  parseState,
  StateBuffer,
  type StateTree,
  type StateValue,
  V86_STATE_VERSION,
} from "./state-tree.js";
import { clearTscOffset } from "./time-stamp-counter.js";

const PREFIX = "v86/";
/** Everything that is no device: registers, and the BIOS's configuration port. */
const CPU_SECTION = `${PREFIX}cpu`;
/** What ramport adds to v86's state. */
const HOST_SECTION = `${PREFIX}host`;
const HOST_NAMES: EntryNames = { names: ["microtick", "uart_input"] };

const PAGE_SIZE = 4096;
/** Entries of state version 6 that are no devices and have a meaning here. */
const Entry = { memorySize: 0, apic: 46, pit: 58, packedMemory: 77, memoryBitmap: 78 } as const;
/** `counter_start_time` in the state of the interval timer: three doubles in milliseconds. */
const PIT_START_TIMES = 7;
/** `next_tick` in v86's `Apic`: a double in milliseconds. */
const APIC_NEXT_TICK = 24;
/** What a serial port may have received and its guest not read: far more than a UART's 16 bytes. */
const MAX_UART_INPUT = 1 << 20;

/** The devices of state version 6 by their entries. Those that a machine lacks have no section. */
const DEVICES: ReadonlyMap<number, { readonly name: string; readonly instance: number }> = new Map([
  device(45, "virtio-9p"),
  device(Entry.apic, "apic"),
  device(47, "rtc"),
  device(48, "pci"),
  device(49, "dma"),
  device(50, "acpi"),
  device(52, "vga"),
  device(53, "ps2"),
  device(54, "uart"),
  device(55, "floppy"),
  device(56, "ide-channel"),
  device(57, "ide-channel", 1),
  device(Entry.pit, "pit"),
  device(59, "ne2k"),
  device(60, "pic"),
  device(61, "sb16"),
  device(63, "ioapic"),
  device(79, "uart", 1),
  device(80, "uart", 2),
  device(81, "uart", 3),
  device(82, "virtio-console"),
  device(83, "virtio-net"),
  device(84, "virtio-balloon"),
  device(85, "ide"),
  device(89, "vmware"),
  device(90, "parallel"),
  device(91, "parallel", 1),
]);

function device(entry: number, name: string, instance = 0): [number, { name: string; instance: number }] {
  return [entry, { name, instance }];
}

/** A state as it was read from device sections, and checked. */
export interface LoadableState {
  /** v86's own, without memory. */
  readonly tree: StateTree;
  /** The clock of the source's `performance.now()` when it was saved. */
  readonly savedAtMs: number;
  /** What the serial ports had received and the guest not read. */
  readonly uartInput: readonly Uint8Array[];
}

/**
 * Saves the devices of a stopped v86, without RAM and video memory: both are RAM blocks.
 *
 * What makes v86's own state big is what it asks its `pack_memory` for; for the length of the call the object has one of
 * its own that packs nothing. The state of a machine whose memory is zero comes out, and is cut into sections.
 *
 * @throws MachineError `not-capable` when this v86 puts its memory into the state all the same.
 */
export function saveSections(machine: V86Machine): DeviceState[] {
  const tree = saveTree(machine);
  const registers = tree.map((value, entry) => (isRegister(entry) ? value : null));
  const sections = [section(CPU_SECTION, 0, registers, CPU_NAMES)];
  for (const [entry, { name, instance }] of DEVICES) {
    const value = tree[entry] ?? null;
    if (value !== null) sections.push(section(`${PREFIX}${name}`, instance, value, DEVICE_NAMES[name]));
  }
  const inputs = uartsOf(machine.cpu).map(
    (uart) => new StateBuffer("Uint8Array", Uint8Array.from(uart?.input ?? [])),
  );
  sections.push(section(HOST_SECTION, 0, [performance.now(), inputs], HOST_NAMES));
  return sections;
}

/**
 * Reads device sections.
 *
 * @throws FormatError when they are not what {@link saveSections} makes, of another version, or of a machine with other
 *   memory or other devices than this one.
 */
export function readSections(machine: V86Machine, devices: readonly DeviceState[]): LoadableState {
  const own = saveTree(machine);
  checkDevices(own, devices);
  const values = new Map(
    devices.map(({ name, instance, payload }) => [keyOf(name, instance), decodePayload(payload, name)]),
  );
  const registers = values.get(keyOf(CPU_SECTION, 0));
  if (!isList(registers) || registers.length !== own.length) throw damaged(CPU_SECTION);
  const memoryBytes = machine.cpu.mem8.length;
  const savedBytes = registers[Entry.memorySize];
  if (typeof savedBytes !== "number") throw damaged(CPU_SECTION);
  if (savedBytes !== memoryBytes) {
    throw new FormatError("inconsistent", "The device state is of a v86 with other memory", {
      section: CPU_SECTION,
      expected: memoryBytes,
      actual: savedBytes,
    });
  }
  // v86 writes registers into places of fixed lengths.
  const sameShape = own.every((value, entry) => {
    if (!isRegister(entry) || !(value instanceof StateBuffer)) return true;
    const saved = registers[entry];
    return (
      saved instanceof StateBuffer && saved.type === value.type && saved.bytes.length === value.bytes.length
    );
  });
  if (!sameShape) throw damaged(CPU_SECTION);
  const tree = registers.map((value, entry) => {
    const place = DEVICES.get(entry);
    return place === undefined
      ? value
      : (values.get(keyOf(`${PREFIX}${place.name}`, place.instance)) ?? null);
  });
  tree[Entry.packedMemory] = own[Entry.packedMemory] ?? null;
  tree[Entry.memoryBitmap] = own[Entry.memoryBitmap] ?? null;
  return { tree, ...readHostSection(values.get(keyOf(HOST_SECTION, 0))) };
}

/**
 * Loads a state; memory stays as it is. v86 throws away its translated code and its TLB with it, so memory may have been
 * written before.
 *
 * Time goes on from where the guest was: what v86 notes by the clock of its process is moved to the clock of this one.
 *
 * @throws FormatError `malformed` when v86 does not take it; the machine is then in pieces.
 */
export function restoreTree(machine: V86Machine, { tree, savedAtMs, uartInput }: LoadableState): void {
  const { cpu } = machine;
  const registers = DETACHED_REGISTERS.map((name) => ({ name, view: cpu[name] }));
  clearTscOffset(cpu);
  cpu.unpack_memory = () => undefined;
  const emptyAgain = fillMissingBars(cpu);
  try {
    machine.restore_state(buildState(withMovedClock(tree, performance.now() - savedAtMs)).buffer);
  } catch (cause) {
    throw new FormatError("malformed", "v86 does not take its state", {}, cause);
  } finally {
    Reflect.deleteProperty(cpu, "unpack_memory");
    emptyAgain();
  }
  for (const { name, view } of registers) attachAgain(cpu, name, view);
  for (const [index, uart] of uartsOf(cpu).entries())
    uart?.input.splice(0, uart.input.length, ...(uartInput[index] ?? []));
}

function isRegister(entry: number): boolean {
  return !DEVICES.has(entry) && entry !== Entry.packedMemory && entry !== Entry.memoryBitmap;
}

function section(
  name: string,
  instance: number,
  value: StateValue,
  names: EntryNames | undefined,
): DeviceState {
  return { name, instance, version: V86_STATE_VERSION, ...encodePayload(value, names) };
}

function keyOf(name: string, instance: number): string {
  return instance === 0 ? name : `${name} ${instance}`;
}

function checkDevices(own: StateTree, devices: readonly DeviceState[]): void {
  const expected = [CPU_SECTION, HOST_SECTION];
  for (const [entry, { name, instance }] of DEVICES) {
    if ((own[entry] ?? null) !== null) expected.push(keyOf(`${PREFIX}${name}`, instance));
  }
  const actual = devices.map(({ name, instance }) => keyOf(name, instance));
  for (const { name, version } of devices) {
    if (name.startsWith(PREFIX)) checkVersion(version, name);
  }
  if (actual.length === expected.length && expected.every((key) => actual.includes(key))) return;
  const missing = expected.filter((key) => !actual.includes(key));
  const foreign = actual.filter((key) => !expected.includes(key));
  throw new FormatError("inconsistent", "The state is of a machine with other devices", {
    ...(missing.length === 0 ? {} : { expected: missing.join(", ") }),
    ...(foreign.length === 0 ? {} : { actual: foreign.join(", ") }),
    hint: "create the machine with the options that it was saved with",
  });
}

function readHostSection(value: StateValue | undefined): Pick<LoadableState, "savedAtMs" | "uartInput"> {
  const [savedAtMs, inputs] = isList(value) ? value : [];
  if (typeof savedAtMs !== "number" || !isList(inputs)) throw damaged(HOST_SECTION);
  const uartInput = inputs.map((input) => {
    if (!(input instanceof StateBuffer) || input.bytes.length > MAX_UART_INPUT) throw damaged(HOST_SECTION);
    return input.bytes;
  });
  return { savedAtMs, uartInput };
}

function saveTree(machine: V86Machine): StateTree {
  const { cpu } = machine;
  const { vga } = cpu.devices;
  const videoMemory = vga.svga_memory;
  const bitmap = new ArrayBuffer(cpu.mem8.length / PAGE_SIZE / 8);
  cpu.pack_memory = () => ({ packed_memory: new Uint8Array(0), bitmap: { get_buffer: () => bitmap } });
  vga.svga_memory = new Uint8Array(0);
  try {
    const tree = parseOwn(new Uint8Array(machine.save_state()));
    const packed = tree[Entry.packedMemory];
    if (packed instanceof StateBuffer && packed.bytes.length === 0) return tree;
  } finally {
    // The prototype's own is behind it.
    Reflect.deleteProperty(cpu, "pack_memory");
    vga.svga_memory = videoMemory;
  }
  throw unknownState();
}

function parseOwn(bytes: Uint8Array): StateTree {
  try {
    return parseState(bytes);
  } catch (cause) {
    throw unknownState(cause);
  }
}

function unknownState(cause?: unknown): MachineError {
  return new MachineError(
    "not-capable",
    "This v86 saves its state in another way than ramport knows",
    { expected: `state version ${V86_STATE_VERSION}` },
    cause,
  );
}

/** v86 notes when its timers started on the clock of its process, which begins anew with each. */
function withMovedClock(tree: StateTree, byMs: number): StateTree {
  const moved = [...tree];
  const pit = tree[Entry.pit];
  if (isList(pit)) {
    moved[Entry.pit] = pit.map((value, index) =>
      index === PIT_START_TIMES ? withMovedDoubles(value, byMs, 0, 3) : value,
    );
  }
  moved[Entry.apic] = withMovedDoubles(tree[Entry.apic], byMs, APIC_NEXT_TICK, 1);
  return moved;
}

function withMovedDoubles(
  value: StateValue | undefined,
  by: number,
  offset: number,
  count: number,
): StateValue {
  if (!(value instanceof StateBuffer) || value.bytes.length < offset + count * 8) return value ?? null;
  const bytes = value.bytes.slice();
  const view = new DataView(bytes.buffer);
  for (let at = offset; at < offset + count * 8; at += 8)
    view.setFloat64(at, view.getFloat64(at, true) + by, true);
  return new StateBuffer(value.type, bytes);
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
  const holes = cpu.devices.pci.devices.flatMap((pciDevice) => {
    const bars = pciDevice?.pci_bars ?? [];
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
