/**
 * One iteration over the events of a monitor.
 *
 * @module
 */
import { CancelledError, MachineError, UsageError } from "../errors/index.js";
import type { QmpEvent } from "./event-types.js";

/** How an iteration over events ends and how far it may fall behind. */
export interface EventsOptions {
  /** Firing makes the iteration throw CancelledError. */
  readonly signal?: AbortSignal | undefined;
  /** Most events kept for a reader that is busy elsewhere; default 1024. One more makes the iteration throw. */
  readonly maxBuffered?: number | undefined;
}

/** Whoever wants to see all events and the end of the connection. */
export interface Subscriber {
  event(event: QmpEvent): void;
  /** The connection ended; `reason` is undefined when this side closed it. */
  end(reason: MachineError | undefined): void;
}

/** One iteration. Events that come while nobody asks wait here, up to the limit. */
export class EventQueue implements AsyncIterableIterator<QmpEvent>, Subscriber {
  readonly #limit: number;
  readonly #unsubscribe: () => void;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = (): void => this.#finish(new CancelledError(undefined, this.#signal?.reason), true);
  #buffer: QmpEvent[] = [];
  #readers: {
    resolve: (result: IteratorResult<QmpEvent, undefined>) => void;
    reject: (error: Error) => void;
  }[] = [];
  #done = false;
  #error: Error | undefined;

  constructor(options: EventsOptions, unsubscribe: () => void) {
    this.#limit = options.maxBuffered ?? 1024;
    if (!Number.isInteger(this.#limit) || this.#limit < 1) {
      throw new UsageError("The limit of buffered events must be a whole number above 0", {
        actual: this.#limit,
      });
    }
    this.#unsubscribe = unsubscribe;
    this.#signal = options.signal;
  }

  /** Begins to obey the signal; to be called once subscribed, since a signal that has fired unsubscribes at once. */
  start(): void {
    if (this.#done) return;
    if (this.#signal?.aborted === true) this.#onAbort();
    else this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  event(event: QmpEvent): void {
    if (this.#done) return;
    const reader = this.#readers.shift();
    if (reader !== undefined) {
      reader.resolve({ done: false, value: event });
    } else if (this.#buffer.length < this.#limit) {
      this.#buffer.push(event);
    } else {
      // Leaving events out in silence would make the reader believe in a state that has passed.
      const data = { hint: "read the events faster, or wait for single ones" };
      this.#finish(new MachineError("qmp", `More than ${this.#limit} events wait to be read`, data), false);
    }
  }

  end(reason: MachineError | undefined): void {
    // That a QEMU quits is a normal end of its events; only a connection that broke is an error.
    this.#finish(
      reason?.code === "connection-closed" && reason.cause === undefined ? undefined : reason,
      false,
    );
  }

  next(): Promise<IteratorResult<QmpEvent, undefined>> {
    const value = this.#buffer.shift();
    if (value !== undefined) return Promise.resolve({ done: false, value });
    if (this.#error !== undefined) {
      const error = this.#error;
      this.#error = undefined;
      return Promise.reject(error);
    }
    if (this.#done) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }

  return(): Promise<IteratorResult<QmpEvent, undefined>> {
    this.#finish(undefined, true);
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #finish(error: Error | undefined, dropBuffer: boolean): void {
    if (dropBuffer) this.#buffer = [];
    if (this.#done) return;
    this.#done = true;
    this.#unsubscribe();
    this.#signal?.removeEventListener("abort", this.#onAbort);
    const readers = this.#readers;
    this.#readers = [];
    const first = readers.shift();
    if (error !== undefined && first !== undefined) first.reject(error);
    else {
      this.#error = error;
      first?.resolve({ done: true, value: undefined });
    }
    for (const reader of readers) reader.resolve({ done: true, value: undefined });
  }
}
