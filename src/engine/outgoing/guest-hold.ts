import type { MigrationHost } from "../host.js";
import { disturbed } from "./disturbed.js";

/** The guest in the hands of a migration: stopped once, and let go on where that comes to nothing. */
export class GuestHold {
  readonly #host: MigrationHost;
  readonly #onGuest: ((change: "stopped" | "resumed") => void) | undefined;
  #wasRunning: boolean;
  /** As of our stopping the guest; undefined when it was not we who stopped it. */
  #stoppedAtRunCount: number | undefined;
  /** As of the last moment at which somebody may have let it go on. */
  #heldAtRunCount: number | undefined;

  constructor(host: MigrationHost, onGuest: ((change: "stopped" | "resumed") => void) | undefined) {
    this.#host = host;
    this.#onGuest = onGuest;
    this.#wasRunning = host.running;
  }

  /** Whether the guest ran before it was stopped: the destination lets it go on then. */
  get wasRunning(): boolean {
    return this.#wasRunning;
  }

  /**
   * Stops the guest.
   *
   * @param onStop Called right before, where it runs.
   */
  async stop(onStop: () => void): Promise<void> {
    const host = this.#host;
    this.#wasRunning = host.running;
    if (!this.#wasRunning) {
      await host.stop();
      return;
    }
    onStop();
    this.#stoppedAtRunCount = host.runCount;
    await host.stop();
    this.#onGuest?.("stopped");
  }

  /**
   * From here on nobody may let it go on.
   *
   * @throws MachineError when it runs.
   */
  hold(): void {
    const { runCount } = this.#host;
    this.#heldAtRunCount = runCount;
    // While the migration waited, somebody may have let it go on.
    this.check();
    // If so, it was also they who stopped it again.
    if (this.#stoppedAtRunCount !== runCount) this.#wasRunning = false;
  }

  /** Whether nobody has let it go on since {@link hold}. */
  get isHeld(): boolean {
    return !this.#host.running && this.#host.runCount === this.#heldAtRunCount;
  }

  /** @throws MachineError when it was let go on since {@link hold}. */
  check(): void {
    if (!this.isHeld) throw disturbed("The guest was let go on during the switch-over");
  }

  /** Lets it go on if we stopped it. Where somebody has let it go on since, what it does now is as they want it. */
  async release(): Promise<void> {
    if (this.#stoppedAtRunCount !== this.#host.runCount) return;
    await this.#host.run();
    this.#onGuest?.("resumed");
  }
}
