import { clearTscOffset } from "./time-stamp-counter.js";
import type { V86Acpi, V86Machine } from "./internals.js";
import { readWakingVector } from "./waking-vector.js";

/** PM1a_CNT of v86's chip set: behind PM1_STS and PM1_EN, at the address that its power management always has. */
const PM1_CONTROL = 0xb004;
/** Write only: the machine sleeps, as {@link sleepType} says. */
const SLEEP_ENABLE = 1 << 13;
/** Suspend to RAM (S3) of a PIIX4, and of the tables that SeaBIOS makes for it. */
const SUSPEND_TO_RAM = 1;
/** PM1_STS after a wake-up: woken (WAK_STS), by somebody at the power button, as QEMU has it. */
const WOKEN = (1 << 15) | (1 << 8);
const CODE_SEGMENT = 1;

/**
 * ACPI's sleep state S3 of a v86 with the option `acpi`: the guest writes it into PM1a_CNT, its processor stands still from
 * the next instruction on, and what it had in its registers is lost.
 */
export class AcpiSleep {
  readonly #machine: V86Machine;
  readonly #acpi: V86Acpi;

  /** @param onSleep Called in the middle of the guest's turn. */
  constructor(machine: V86Machine, acpi: V86Acpi, onSleep: () => void) {
    this.#machine = machine;
    this.#acpi = acpi;
    const { cpu } = machine;
    cpu.io.register_write(PM1_CONTROL, acpi, undefined, (value) => {
      acpi.status = value & ~SLEEP_ENABLE;
      if ((value & SLEEP_ENABLE) === 0 || sleepType(value) !== SUSPEND_TO_RAM) return;
      // v86 looks at it after each instruction that writes to a port.
      cpu.in_hlt[0] = 1;
      onSleep();
    });
  }

  /**
   * Does what firmware does when the machine wakes up: the processor is reset, and goes on at the guest's waking vector, in
   * real mode. Memory and the other devices stay as they are.
   *
   * @throws MachineError `not-capable` when the guest has left no such vector; it then sleeps on.
   */
  wake(): void {
    const { cpu } = this.#machine;
    const vector = readWakingVector(cpu.mem8.subarray(0));
    clearTscOffset(cpu);
    cpu.reset_cpu();
    cpu.sreg[CODE_SEGMENT] = vector >> 4;
    cpu.segment_offsets[CODE_SEGMENT] = vector & ~0xf;
    cpu.instruction_pointer[0] = vector;
    cpu.update_state_flags();
    this.#acpi.pm1_status |= WOKEN;
  }
}

function sleepType(control: number): number {
  return (control >> 10) & 7;
}
