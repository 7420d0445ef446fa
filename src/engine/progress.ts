/** How far a long operation has come. Rates are over the last second or so. */
export interface TransferProgress {
  /** What is happening, for people: `saving`, `waiting for the guest to stop`, ... */
  readonly phase: string;
  /** Bytes moved so far. */
  readonly transferredBytes: number;
  /** Bytes known to be left; undefined when nobody knows. */
  readonly remainingBytes?: number;
  /** Bytes of guest RAM in all. */
  readonly totalBytes?: number;
  readonly bytesPerSecond?: number;
  /** How fast the running guest changes memory. */
  readonly dirtyBytesPerSecond?: number;
  /** Rounds over guest memory so far. */
  readonly dirtySyncCount?: number;
}

/** Called some ten times a second at most. */
export type ProgressListener = (progress: TransferProgress) => void;

const INTERVAL_MS = 100;

/** Limits how often a listener is called, and measures the rate between its calls. */
export class ProgressMeter {
  readonly #listener: ProgressListener | undefined;
  #lastMs = performance.now();
  #lastBytes = 0;
  #rate: number | undefined;

  constructor(listener: ProgressListener | undefined) {
    this.#listener = listener;
  }

  /** Reports when it is time; `describe` is only called then. */
  update(
    transferredBytes: number,
    describe: () => Omit<TransferProgress, "transferredBytes" | "bytesPerSecond">,
  ): void {
    if (this.#listener === undefined) return;
    const nowMs = performance.now();
    const elapsedMs = nowMs - this.#lastMs;
    if (elapsedMs < INTERVAL_MS) return;
    const measured = ((transferredBytes - this.#lastBytes) * 1000) / elapsedMs;
    // Smoothed: a single slow write must not make the figure jump.
    this.#rate = this.#rate === undefined ? measured : this.#rate * 0.8 + measured * 0.2;
    this.#lastMs = nowMs;
    this.#lastBytes = transferredBytes;
    this.#listener({ ...describe(), transferredBytes, bytesPerSecond: this.#rate });
  }
}
