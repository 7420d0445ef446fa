import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";

import { buildMultibootImage } from "../../../guests/multiboot.js";
import type { DeviceState } from "../../../src/engine/host.js";
import { FormatError } from "../../../src/errors/index.js";
import { V86Host, type V86HostOptions } from "../../../src/hosts/v86/index.js";
import { internalsOf, type V86Machine } from "../../../src/hosts/v86/internals.js";
import { readSections, saveSections } from "../../../src/hosts/v86/state.js";
import { decodePayload, encodePayload } from "../../../src/hosts/v86/state-payload.js";
import {
  buildState,
  parseState,
  StateBuffer,
  StateMap,
  type StateValue,
} from "../../../src/hosts/v86/state-tree.js";

const MIB = 1 << 20;
const multiboot = buildMultibootImage({ dirtyRange: { start: 2 * MIB, end: 3 * MIB } });
const hosts: V86Host[] = [];

afterEach(async () => {
  for (const host of hosts.splice(0)) await host.destroy();
});

async function stopped(
  options: Partial<V86HostOptions> = {},
): Promise<{ host: V86Host; machine: V86Machine }> {
  const host = await V86Host.create({ memoryBytes: 4 * MIB, multiboot, ...options });
  hosts.push(host);
  await host.run();
  await new Promise((resolve) => setTimeout(resolve, 50));
  await host.stop();
  return { host, machine: internalsOf(host.emulator) };
}

/** Everything that v86 can have, as far as it is a section. */
const EVERYTHING: Partial<V86HostOptions> = {
  v86: {
    uart1: true,
    uart2: true,
    uart3: true,
    acpi: true,
    net_device: { type: "ne2k" },
    virtio_console: { type: "none" },
    virtio_balloon: true,
    hda: { buffer: new ArrayBuffer(MIB) },
    fda: { buffer: new ArrayBuffer(1_474_560) },
  },
};

const byName = (devices: readonly DeviceState[], name: string, instance = 0): DeviceState =>
  devices.find((device) => device.name === name && device.instance === instance)!;

/** The fields of a device by their names, as their description says. */
function fieldsOf({ payload, fields }: DeviceState): Record<string, unknown> {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  let at = 0;
  return Object.fromEntries(
    fields.map(({ name, type, size }) => {
      const from = at;
      at += size;
      const decode: Record<string, () => unknown> = {
        int32: () => view.getInt32(from),
        int64: () => Number(view.getBigInt64(from)),
        float64: () => view.getFloat64(from),
        bool: () => view.getUint8(from) === 1,
      };
      return [name, decode[type]?.() ?? payload.subarray(from, at)];
    }),
  );
}

describe("a state of v86", () => {
  test("comes out of its tree byte for byte", async () => {
    const { machine } = await stopped(EVERYTHING);
    const bytes = new Uint8Array(machine.save_state());
    expect(Buffer.from(bytes).equals(buildState(parseState(bytes)))).toBe(true);
  });

  test.each<[string, Partial<V86HostOptions>]>([
    ["a small machine", {}],
    ["a machine with everything", EVERYTHING],
  ])("of %s comes out of its sections as it was", async (_, options) => {
    const { machine } = await stopped(options);
    const expected = parseState(new Uint8Array(machine.save_state()));
    const { tree } = readSections(machine, saveSections(machine));
    expect(tree.length).toBe(expected.length);
    // The time stamp counter counts on; memory is empty on purpose, and video memory too.
    const compared = [...tree];
    for (const entry of [43, 77, 78]) compared[entry] = expected[entry]!;
    const [vga, expectedVga] = [tree[52], expected[52]] as StateValue[][];
    compared[52] = vga!.with(39, expectedVga![39]!);
    // Not by toEqual: this is a megabyte.
    expect(Buffer.from(buildState(compared)).equals(buildState(expected))).toBe(true);
    expect(tree[77]).toEqual(new StateBuffer("Uint8Array", new Uint8Array(0)));
  });

  test("is the same after a load, so that a machine can move on and on", async () => {
    const one = await stopped(EVERYTHING);
    const other = await stopped(EVERYTHING);
    const devices = one.host.saveDevices();
    other.host.loadDevices(devices);
    const again = other.host.saveDevices();
    expect(again.map(({ name, instance }) => [name, instance])).toEqual(
      devices.map(({ name, instance }) => [name, instance]),
    );
    // Those that have time in them.
    const clocks = ["v86/cpu", "v86/pit", "v86/apic", "v86/rtc", "v86/host"];
    for (const [index, { name, payload }] of devices.entries()) {
      if (clocks.includes(name)) continue;
      expect(Buffer.from(again[index]!.payload).equals(payload), name).toBe(true);
    }
  });
});

describe("the sections", () => {
  test("are one for each device, with its fields by name", async () => {
    const { host, machine } = await stopped(EVERYTHING);
    const devices = host.saveDevices();
    const names = devices.map(({ name, instance }) => `${name} ${instance}`);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toEqual(
      expect.arrayContaining([
        "v86/cpu 0",
        "v86/uart 0",
        "v86/uart 3",
        "v86/vga 0",
        "v86/ide 0",
        "v86/host 0",
      ]),
    );
    for (const { version, payload, fields } of devices) {
      expect(version).toBe(6);
      expect(fields.reduce((sum, { size }) => sum + size, 0)).toBe(payload.length);
      expect(new Set(fields.map(({ name }) => name)).size).toBe(fields.length);
    }
    const uart = fieldsOf(byName(devices, "v86/uart"));
    expect(uart).toMatchObject({ line_control: 0, irq: 4, lsr: 96 });
    const cpu = fieldsOf(byName(devices, "v86/cpu"));
    expect(cpu).toMatchObject({ memory_size: 4 * MIB, protected_mode: 1 });
    expect(cpu.instruction_pointer).toBe(parseState(new Uint8Array(machine.save_state()))[37]);
    const ide = fieldsOf(byName(devices, "v86/ide"));
    expect(ide).toHaveProperty(["primary.master.status_reg"]);
    expect(fieldsOf(byName(devices, "v86/floppy"))).toHaveProperty(["drive0.curr_track"]);
  });

  test("differ only where the machine does", async () => {
    const { host, machine } = await stopped();
    const before = host.saveDevices();
    const { uart0 } = machine.cpu.devices as unknown as { uart0: { scratch_register: number } };
    uart0.scratch_register = 0x5a;
    const after = host.saveDevices();
    const changed = after.filter(
      ({ payload }, index) => !Buffer.from(payload).equals(before[index]!.payload),
    );
    expect(changed.map(({ name }) => name).filter((name) => !["v86/cpu", "v86/host"].includes(name))).toEqual(
      ["v86/uart"],
    );
    expect(fieldsOf(changed.find(({ name }) => name === "v86/uart")!).scratch_register).toBe(0x5a);
  });

  test("take the clock along, and what was typed and not read", async () => {
    const one = await stopped({ v86: { uart1: true, acpi: true } });
    one.host.sendSerial("typed");
    one.host.sendSerialBytes(Uint8Array.of(1, 2, 3), 1);
    const pit = (machine: V86Machine): Float64Array =>
      (machine.cpu.devices as unknown as { pit: { counter_start_time: Float64Array } }).pit
        .counter_start_time;
    const age = performance.now() - pit(one.machine)[0]!;
    const devices = one.host.saveDevices();
    // As from a process that runs for an hour already.
    const hour = 3_600_000;
    const { savedAtMs, uartInput, tree } = readSections(one.machine, devices);
    const early = saveSections(one.machine);
    const moved = encodePayload(
      [savedAtMs + hour, uartInput.map((input) => new StateBuffer("Uint8Array", input))],
      undefined,
    );
    const shifted = (tree[58] as StateValue[]).map((value, index) => {
      if (index !== 7 || !(value instanceof StateBuffer)) return value;
      const times = new Float64Array(value.bytes.slice().buffer).map((time) => time + hour);
      return new StateBuffer("Float64Array", new Uint8Array(times.buffer));
    });
    const sections = early.map((device) => {
      if (device.name === "v86/host") return { ...device, ...moved };
      return device.name === "v86/pit" ? { ...device, ...encodePayload(shifted, undefined) } : device;
    });
    const other = await stopped({ v86: { uart1: true, acpi: true } });
    other.host.sendSerial("forgotten");
    other.host.loadDevices(sections);
    expect(performance.now() - pit(other.machine)[0]!).toBeGreaterThanOrEqual(age - 1);
    expect(performance.now() - pit(other.machine)[0]!).toBeLessThan(age + 5000);
    expect(other.host.serialBacklog(0)).toBe(5);
    expect(other.machine.cpu.devices.uart1?.input).toEqual([1, 2, 3]);
  });
});

test("a local APIC's timer that was started long ago by the clock of another process goes on", async () => {
  const options = { v86: { acpi: true } };
  const one = await stopped(options);
  const cpu = one.machine.cpu as unknown as { write32(address: number, value: number): void };
  // Divide by one, interrupts at vector 0x20 again and again, 1000000 ticks.
  for (const [register, value] of [
    [0x3e0, 0xb],
    [0x320, 0x2_0020],
    [0x380, 1_000_000],
  ] as const) {
    cpu.write32((0xfee0_0000 + register) | 0, value);
  }
  const nextTick = ({ payload }: DeviceState): number => {
    const apic = decodePayload(payload, "") as StateBuffer;
    return new DataView(apic.bytes.buffer, apic.bytes.byteOffset).getFloat64(24, true);
  };
  const devices = one.host.saveDevices();
  const age = performance.now() - nextTick(byName(devices, "v86/apic"));
  // It was started a moment ago; if it was not found at its place, this is some other number.
  expect(age).toBeGreaterThanOrEqual(0);
  expect(age).toBeLessThan(5000);
  const hour = 3_600_000;
  const early = devices.map((device) => {
    const value = decodePayload(device.payload, "");
    if (device.name === "v86/host") {
      const [savedAtMs, input] = value as [number, StateValue];
      return { ...device, ...encodePayload([savedAtMs + hour, input], undefined) };
    }
    if (device.name !== "v86/apic") return device;
    const bytes = (value as StateBuffer).bytes.slice();
    new DataView(bytes.buffer).setFloat64(24, nextTick(device) + hour, true);
    return { ...device, ...encodePayload(new StateBuffer("Uint8Array", bytes), undefined) };
  });
  const other = await stopped(options);
  other.host.loadDevices(early);
  const again = performance.now() - nextTick(byName(other.host.saveDevices(), "v86/apic"));
  expect(again).toBeGreaterThanOrEqual(age - 1);
  expect(again).toBeLessThan(age + 5000);
});

describe("a payload", () => {
  const buffer = fc
    .tuple(
      fc.constantFrom("Uint8Array" as const, "Int32Array" as const, "Float64Array" as const),
      fc.uint8Array({ maxLength: 5 }),
    )
    .map(([type, bytes]) => {
      const size = { Uint8Array: 1, Int32Array: 4, Float64Array: 8 }[type];
      return new StateBuffer(
        type,
        Uint8Array.from({ length: bytes.length * size }, (_, at) => bytes[at % bytes.length]!),
      );
    });
  const { value } = fc.letrec<{ value: StateValue }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.integer(),
      fc.maxSafeInteger(),
      fc.double({ noNaN: true }),
      fc.boolean(),
      fc.string(),
      fc.constant(null),
      buffer,
      fc.array(tie("value"), { maxLength: 6 }),
      tie("value").map((entries) => new StateMap(entries)),
    ),
  }));

  const values = fc.array(value, { minLength: 1, maxLength: 12 });

  test("gives back what was put into it", () => {
    fc.assert(
      fc.property(values, (given) => {
        const { payload, fields } = encodePayload(given, undefined);
        expect(decodePayload(payload, "x")).toStrictEqual(given);
        expect(fields.reduce((sum, { size }) => sum + size, 0)).toBe(payload.length);
      }),
    );
  });

  test("that is damaged is refused, or is another value", () => {
    fc.assert(
      fc.property(
        values,
        fc.nat(),
        fc.integer({ min: 0, max: 255 }),
        fc.boolean(),
        (given, where, byte, cut) => {
          const { payload } = encodePayload(given, undefined);
          const at = where % payload.length;
          const bad = cut ? payload.slice(0, at) : payload.with(at, byte);
          try {
            decodePayload(bad, "x");
          } catch (error) {
            expect(error).toBeInstanceOf(FormatError);
          }
        },
      ),
      { numRuns: 1000 },
    );
  });

  test("that is nested without end is refused", () => {
    const text = new TextEncoder().encode("[".repeat(10_000) + "]".repeat(10_000));
    const bytes = new Uint8Array(4 + text.length);
    new DataView(bytes.buffer).setUint32(0, text.length);
    bytes.set(text, 4);
    expect(() => decodePayload(bytes, "x")).toThrow(FormatError);
  });
});

describe("what does not fit is refused before anything changes", () => {
  test.each<[string, (devices: DeviceState[]) => DeviceState[], RegExp]>([
    [
      "a device less",
      (devices) => devices.filter(({ name }) => name !== "v86/pit"),
      /other devices.*v86\/pit/,
    ],
    ["a device more", (devices) => [...devices, { ...devices[1]!, instance: 9 }], /other devices/],
    ["a foreign device", (devices) => [...devices, { ...devices[1]!, name: "e1000", version: 1 }], /e1000/],
    [
      "another version",
      (devices) => devices.map((device) => (device.name === "v86/vga" ? { ...device, version: 7 } : device)),
      /v86\/vga.*expected version 6, found version 7/,
    ],
    [
      "registers of another size",
      (devices) =>
        devices.map((device) => {
          if (device.name !== "v86/cpu") return device;
          const registers = [...(decodePayload(device.payload, "") as StateValue[])];
          registers[39] = new StateBuffer("Int32Array", new Uint8Array(4096));
          return { ...device, ...encodePayload(registers, undefined) };
        }),
      /state of v86 is damaged.*v86\/cpu/,
    ],
  ])("%s", async (_, change, message) => {
    const { host, machine } = await stopped();
    const devices = change([...host.saveDevices()]);
    const before = machine.cpu.mem8.slice();
    expect(() => host.checkDevices(devices)).toThrow(FormatError);
    expect(() => host.checkDevices(devices)).toThrow(message);
    expect(() => host.loadDevices(devices)).toThrow(message);
    expect(Buffer.from(before).equals(machine.cpu.mem8.subarray(0))).toBe(true);
    await host.run();
    expect(host.running).toBe(true);
  });
});
