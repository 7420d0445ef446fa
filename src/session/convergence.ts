import type { MigrationInfo, QmpClient } from "../qmp/index.js";

/** Seconds that a live save may go on after its first pass over memory, unless the user says otherwise. */
const PATIENCE_AFTER_FIRST_PASS_SECONDS = 60;

/** What is watched, and who is told. */
export interface ConvergenceOptions {
  /** Seconds from the start after which the guest is stopped; the default counts 60 from the end of the first pass. */
  readonly stopAfterSeconds?: number;
  readonly onMessage?: (message: string) => void;
}

/**
 * Watches whether a live migration comes to its end. One whose guest changes memory faster than it is saved never does:
 * that is said once, and after a time the guest is stopped, so that the next pass is the last.
 */
export class ConvergenceWatch {
  /** When the guest was stopped because it did not converge, on the clock of `performance.now()`. */
  stoppedMs: number | undefined;
  readonly #qmp: QmpClient;
  readonly #options: ConvergenceOptions;
  readonly #startMs = performance.now();
  #firstPassMs: number | undefined;
  #told = false;

  constructor(qmp: QmpClient, options: ConvergenceOptions) {
    this.#qmp = qmp;
    this.#options = options;
  }

  /** Looks at an answer of query-migrate; stops the guest when its time is over. */
  async observe(info: MigrationInfo): Promise<void> {
    if (this.stoppedMs !== undefined || info.status !== "active") return;
    const nowMs = performance.now();
    const passes = info.ram?.["dirty-sync-count"] ?? 0;
    // The count rises at the start of each pass.
    if (passes >= 2) this.#firstPassMs ??= nowMs;
    const deadlineMs = this.#deadlineMs();
    if (passes >= 3 && !this.#told && dirtiesFasterThanSaved(info)) {
      this.#told = true;
      const seconds = Math.max(0, Math.round(((deadlineMs ?? nowMs) - nowMs) / 1000));
      this.#options.onMessage?.(
        `The guest changes memory faster than it can be saved; it will be stopped in ${seconds} s so that the save ends`,
      );
    }
    if (deadlineMs === undefined || nowMs < deadlineMs) return;
    this.stoppedMs = nowMs;
    this.#options.onMessage?.("The save does not converge: stopping the guest for the last pass");
    await this.#qmp.execute("stop");
  }

  #deadlineMs(): number | undefined {
    const { stopAfterSeconds } = this.#options;
    if (stopAfterSeconds !== undefined) return this.#startMs + stopAfterSeconds * 1000;
    return this.#firstPassMs === undefined
      ? undefined
      : this.#firstPassMs + PATIENCE_AFTER_FIRST_PASS_SECONDS * 1000;
  }
}

function dirtiesFasterThanSaved({ ram }: MigrationInfo): boolean {
  const dirty = (ram?.["dirty-pages-rate"] ?? 0) * (ram?.["page-size"] ?? 0);
  const saved = ((ram?.mbps ?? 0) * 1_000_000) / 8;
  return dirty > saved;
}
