import type { V86Machine } from "./internals.js";

/** How often a guest that is held is looked after. */
const HELD_TURN_MS = 1000;

/**
 * Lets a v86 rest after each turn of its main loop, so that it runs for a part of the time only, or not at all.
 *
 * A turn takes about a millisecond; the rest behind it is so long that the two are in the wanted proportion. A guest that
 * waits for an interrupt takes no time and needs no rest. The emulator knows nothing of it: it runs all the while.
 */
export class DutyCycle {
  readonly #machine: V86Machine;
  #percent = 0;
  #isHeld = false;
  #restUntilMs = 0;
  #remove: (() => void) | undefined;

  constructor(machine: V86Machine) {
    this.#machine = machine;
  }

  /** @param percent Part of the time that the guest does not get: 0 (none) to 99. */
  set(percent: number): void {
    this.#percent = percent;
    this.#update();
  }

  /** Keeps the guest from running altogether, until it is let go again; the emulator goes on, and may be stopped. */
  hold(held: boolean): void {
    this.#isHeld = held;
    this.#update();
  }

  /** Ends the rest or idle time that the emulator is in. Only while it runs. */
  wake(): void {
    this.#restUntilMs = 0;
    this.#machine.next_tick(0);
  }

  #update(): void {
    const isNeeded = this.#percent > 0 || this.#isHeld;
    if (isNeeded) this.#install();
    else this.#remove?.();
  }

  /** The objects get functions of their own, before the emulator's. */
  #install(): void {
    if (this.#remove !== undefined) return;
    const machine = this.#machine;
    const { cpu } = machine;
    const runTurn = cpu.main_loop.bind(cpu);
    const wait = machine.yield.bind(machine);
    this.#restUntilMs = 0;
    cpu.main_loop = () => {
      if (this.#isHeld) return HELD_TURN_MS;
      const startMs = performance.now();
      const idleMs = runTurn();
      const endMs = performance.now();
      this.#restUntilMs = endMs + ((endMs - startMs) * this.#percent) / (100 - this.#percent);
      return idleMs;
    };
    machine.yield = (delayMs, tick) => wait(Math.max(delayMs, this.#restUntilMs - performance.now()), tick);
    this.#remove = () => {
      this.#remove = undefined;
      cpu.main_loop = runTurn;
      // The prototype's own is behind it.
      Reflect.deleteProperty(machine, "yield");
    };
  }
}
