import type { Random } from "../support/random.js";
import type { SimHost } from "./sim-host.js";
import type { VirtualClock } from "./virtual-clock.js";

/** How a guest changes its memory. */
export interface GuestHabit {
  readonly pattern:
    | "idle"
    | "sequential"
    | "hot"
    | "back-and-forth"
    | "zeroing"
    | "scattered"
    | "few-bytes"
    | "zero-and-touch";
  readonly everyMs: number;
  /** Places that it writes to each time. */
  readonly writes: number;
  /** Its memory moves about now and then, as views of a growing WebAssembly.Memory do. */
  readonly moves: boolean;
}

/** The program in a simulated machine: as long as the machine runs, it writes memory and counts in its devices. */
export class SimGuest {
  /** How often it had its turn. */
  ticks = 0;
  readonly #host: SimHost;
  readonly #habit: GuestHabit;
  readonly #random: Random;
  readonly #clock: VirtualClock;
  readonly #pages: readonly number[];
  /** Pages that were written in turn last. */
  #next = 0;
  #over = false;
  #buffer: Uint8Array;

  constructor(host: SimHost, habit: GuestHabit, random: Random, clock: VirtualClock) {
    this.#host = host;
    this.#habit = habit;
    this.#random = random;
    this.#clock = clock;
    this.#pages = host.ramBlocks().map(({ usedLength }) => usedLength / host.pageSize);
    this.#buffer = new Uint8Array(host.pageSize);
  }

  /** Fills about half of the memory, as it is when the simulation begins. */
  furnish(): void {
    const random = this.#random;
    const { pageSize } = this.#host;
    for (const [block, pages] of this.#pages.entries()) {
      for (let page = 0; page < pages; page++) {
        if (random.below(2) === 0) continue;
        if (random.below(8) === 0) this.#host.fill(block, (page + 1) * pageSize - 1, Uint8Array.of(1));
        else this.#host.fill(block, page * pageSize, this.#content());
      }
    }
  }

  /** Begins; the guest then has its turns until {@link end}. */
  begin(): void {
    if (this.#over) return;
    const everyMs = this.#habit.everyMs * (0.5 + this.#random.below(1000) / 1000);
    this.#clock.after(everyMs, "guest", () => {
      this.#tick();
      this.begin();
    });
  }

  end(): void {
    this.#over = true;
  }

  #tick(): void {
    const host = this.#host;
    if (!host.running || this.#random.below(100) < host.throttledPercent) return;
    this.ticks += 1;
    if (this.#habit.moves && this.#random.below(8) === 0) host.move();
    for (let write = 0; write < this.#habit.writes; write++) this.#write();
    const device = host.devices[this.#random.below(host.devices.length)]!;
    if (device.length > 0) device[0] = this.ticks;
  }

  #write(): void {
    const random = this.#random;
    const block = random.below(this.#pages.length);
    const pages = this.#pages[block]!;
    const { pageSize } = this.#host;
    const anywhere = random.below(pages);
    switch (this.#habit.pattern) {
      case "idle":
        return;
      case "sequential":
        this.#host.write(block, (this.#next++ % pages) * pageSize, this.#content());
        return;
      case "hot":
        this.#host.write(block, random.below(Math.min(3, pages)) * pageSize, this.#content());
        return;
      case "back-and-forth": {
        // What it writes in one turn it takes back in the next: pages that are the same again must be found too.
        const page = this.#next++ % Math.min(4, pages);
        this.#host.write(block, page * pageSize, this.#buffer.fill(this.ticks % 2 === 0 ? 7 : 8));
        return;
      }
      case "zeroing":
        if (random.below(2) === 0) this.#host.write(block, anywhere * pageSize, this.#buffer.fill(0));
        else this.#host.write(block, anywhere * pageSize, this.#content());
        return;
      case "zero-and-touch": {
        // A few pages that become zero and get a few bytes again, as xbzrle likes them.
        const page = random.below(Math.min(3, pages)) * pageSize;
        if (random.below(3) === 0) this.#host.write(block, page, this.#buffer.fill(0));
        else this.#host.write(block, page + random.below(pageSize), Uint8Array.of(1 + random.below(255)));
        return;
      }
      case "scattered": {
        // Across the border of two pages as often as not.
        const length = 1 + random.below(Math.min(pageSize, 64));
        const address = random.below(pages * pageSize - length + 1);
        this.#host.write(block, address, this.#content().subarray(0, length));
        return;
      }
      case "few-bytes": {
        const address = anywhere * pageSize + random.below(pageSize);
        this.#host.write(block, address, Uint8Array.of(random.below(256)));
        return;
      }
    }
  }

  /** A page that is like no other: bytes that cost little to make. */
  #content(): Uint8Array {
    const random = this.#random;
    const buffer = this.#buffer.fill(random.below(256));
    for (let index = 0; index < 8; index++) buffer[random.below(buffer.length)] = random.below(256);
    return buffer;
  }
}
