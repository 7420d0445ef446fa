import { MachineError } from "../../errors/index.js";

/** The BIOS data area has the segment of the extended BIOS data area there, in whose first KiB the tables may be named. */
const EXTENDED_AREA_SEGMENT = 0x40e;
const EXTENDED_AREA_BYTES = 1024;
const BIOS_AREA = { start: 0xe_0000, end: 0x10_0000 } as const;
/** "RSD PTR ", in two halves. */
const POINTER_SIGNATURE = [0x2044_5352, 0x2052_5450] as const;
const POINTER_BYTES = 20;
const POINTER_ALIGNMENT = 16;
/** Offsets in the tables. */
const Offset = { rsdt: 16, length: 4, entries: 36, facs: 36, wakingVector: 12 } as const;
/** No firmware has as many tables. */
const MAX_TABLES = 256;
const Signature = { RSDT: 0x5444_5352, FACP: 0x5043_4146, FACS: 0x5343_4146 } as const;

/**
 * Finds where a guest wants to be woken (ACPI): the RSDP in the BIOS's memory leads to the RSDT, this to the FADT, and that
 * one to the FACS, in which the guest has left its waking vector.
 *
 * @param memory Guest RAM from address 0 on.
 * @returns A physical address below 1 MiB.
 * @throws MachineError `not-capable` when it has left none.
 */
export function readWakingVector(memory: Uint8Array): number {
  const tables = new Tables(memory);
  const vector = tables.facs()?.wakingVector ?? 0;
  if (vector > 0 && vector < BIOS_AREA.end) return vector;
  throw new MachineError("not-capable", "The guest has left no address at which it could be woken", {
    expected: "a waking vector in its ACPI tables (FACS)",
  });
}

/** ACPI's tables in memory that a guest may have filled with anything. */
class Tables {
  readonly #memory: Uint8Array;
  readonly #view: DataView;

  constructor(memory: Uint8Array) {
    this.#memory = memory;
    this.#view = new DataView(memory.buffer, memory.byteOffset, memory.length);
  }

  facs(): { readonly wakingVector: number } | undefined {
    const rsdt = this.#word((this.#pointer() ?? NaN) + Offset.rsdt);
    if (this.#word(rsdt) !== Signature.RSDT) return undefined;
    const count = Math.floor((this.#word(rsdt + Offset.length) - Offset.entries) / 4);
    for (let entry = 0; entry < Math.min(count, MAX_TABLES); entry++) {
      const table = this.#word(rsdt + Offset.entries + entry * 4);
      if (this.#word(table) !== Signature.FACP) continue;
      const facs = this.#word(table + Offset.facs);
      if (this.#word(facs) === Signature.FACS)
        return { wakingVector: this.#word(facs + Offset.wakingVector) };
    }
    return undefined;
  }

  #pointer(): number | undefined {
    const extended = (this.#word(EXTENDED_AREA_SEGMENT) & 0xffff) * 16;
    return (
      this.#pointerIn(extended, extended + EXTENDED_AREA_BYTES) ??
      this.#pointerIn(BIOS_AREA.start, BIOS_AREA.end)
    );
  }

  #pointerIn(start: number, end: number): number | undefined {
    for (let at = start; at < end; at += POINTER_ALIGNMENT) {
      const [low, high] = POINTER_SIGNATURE;
      if (this.#word(at) !== low || this.#word(at + 4) !== high) continue;
      const sum = this.#memory.subarray(at, at + POINTER_BYTES).reduce((total, byte) => total + byte, 0);
      if (sum % 256 === 0) return at;
    }
    return undefined;
  }

  /** NaN outside of memory: nothing is found from there. */
  #word(address: number): number {
    return address >= 0 && address + 4 <= this.#memory.length ? this.#view.getUint32(address, true) : NaN;
  }
}
