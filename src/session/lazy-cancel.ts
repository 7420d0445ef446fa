/** How long a cancel may wait for the guest. */
const MOST_MS = 5000;

/**
 * Passes a cancel on, but not between the package and the guest: a QEMU that loads its devices waits for pages in its main
 * thread, and one that nobody serves then answers nothing any more, neither how it stands nor whose pages it needs. A moment
 * later its guest is there, and can be taken up.
 */
export class LazyCancel {
  readonly #inner = new AbortController();
  readonly #outer: AbortSignal | undefined;
  #waitsForGuest = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(outer: AbortSignal | undefined) {
    this.#outer = outer;
    outer?.addEventListener("abort", this.#heard, { once: true });
    if (outer?.aborted === true) this.#heard();
  }

  /** What the work is to hear. */
  get signal(): AbortSignal {
    return this.#inner.signal;
  }

  packageSent(): void {
    this.#waitsForGuest = true;
  }

  /** The guest is there, or will not be. */
  guestDecided(): void {
    this.#waitsForGuest = false;
    if (this.#outer?.aborted === true) this.#pass();
  }

  close(): void {
    this.#outer?.removeEventListener("abort", this.#heard);
    clearTimeout(this.#timer);
  }

  readonly #heard = (): void => {
    if (this.#waitsForGuest) this.#timer = setTimeout(() => this.#pass(), MOST_MS);
    else this.#pass();
  };

  #pass(): void {
    clearTimeout(this.#timer);
    this.#inner.abort(this.#outer?.reason);
  }
}
