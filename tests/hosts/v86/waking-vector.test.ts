import { describe, expect, test } from "vitest";

import { readWakingVector } from "../../../src/hosts/v86/waking-vector.js";

const RSDT = 0x10_1000;
const FADT = 0x10_2000;
const FACS = 0x10_3000;
const VECTOR = 0x9_a123;

interface Tables {
  readonly pointerAt?: number;
  readonly rsdt?: number;
  readonly rsdtBytes?: number;
  readonly facs?: number;
  readonly vector?: number;
  readonly signature?: string;
  readonly checksumOff?: number;
}

/** Memory with ACPI's tables, as firmware makes them. */
function memoryWith(tables: Tables): Uint8Array {
  const bytes = new Uint8Array(0x10_4000);
  const view = new DataView(bytes.buffer);
  const text = (at: number, value: string): void => bytes.set(new TextEncoder().encode(value), at);
  const { pointerAt = 0xf_5a40 } = tables;
  text(pointerAt, "RSD PTR ");
  view.setUint32(pointerAt + 16, tables.rsdt ?? RSDT, true);
  const sum = bytes.subarray(pointerAt, pointerAt + 20).reduce((total, byte) => total + byte, 0);
  bytes[pointerAt + 8] = (tables.checksumOff ?? 0) - sum;
  text(RSDT, "RSDT");
  view.setUint32(RSDT + 4, tables.rsdtBytes ?? 44, true);
  // The first table is another one.
  view.setUint32(RSDT + 36, 0x10_3f00, true);
  view.setUint32(RSDT + 40, FADT, true);
  text(FADT, "FACP");
  view.setUint32(FADT + 36, tables.facs ?? FACS, true);
  text(FACS, tables.signature ?? "FACS");
  view.setUint32(FACS + 12, tables.vector ?? VECTOR, true);
  return bytes;
}

describe("the waking vector of a guest", () => {
  test.each([
    ["in the BIOS's memory", 0xf_5a40],
    ["at its end", 0xf_ffe0],
  ])("is found where the tables are named %s", (_, pointerAt) => {
    expect(readWakingVector(memoryWith({ pointerAt }))).toBe(VECTOR);
  });

  test("is found where the tables are named in the extended BIOS data area", () => {
    const memory = memoryWith({ pointerAt: 0x9_fc10 });
    expect(() => readWakingVector(memory)).toThrow();
    new DataView(memory.buffer).setUint16(0x40e, 0x9fc0, true);
    expect(readWakingVector(memory)).toBe(VECTOR);
  });

  test.each<[string, Tables]>([
    ["where no table begins", { pointerAt: 0xf_5a48 }],
    ["with a wrong sum", { checksumOff: 1 }],
    ["outside of memory", { rsdt: 0xffff_fff0 }],
    ["that are too short for one", { rsdtBytes: 40 }],
    ["without a length", { rsdtBytes: 0 }],
    ["with the last one outside of memory", { facs: 0xffff_fffc }],
    ["with another one in its place", { signature: "FACX" }],
    ["that say nothing of it", { vector: 0 }],
    ["with one that real mode cannot reach", { vector: 0x10_0000 }],
  ])("is not found in tables %s", (_, tables) => {
    expect(() => readWakingVector(memoryWith(tables))).toThrow(/no address at which it could be woken/);
  });

  test("is not looked for without end", () => {
    const memory = memoryWith({ rsdtBytes: 0xffff_ffff });
    new DataView(memory.buffer).setUint32(RSDT + 40, 0, true);
    expect(() => readWakingVector(memory)).toThrow(/no address at which it could be woken/);
  });
});
